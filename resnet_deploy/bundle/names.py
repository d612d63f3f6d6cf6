"""What the files of a bundle are called, and which names a file of one may have."""

from __future__ import annotations

import re

from resnet_deploy.specs import Precision

MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
FP32 = "model.fp32.onnx"
CALIBRATION = "calibration.json"
SAMPLES = "samples.json"
PROFILES = "profiles.json"
BENCH = "bench.json"

LOCK = ".lock"
WRITER = ".writer"
STAGING = ".staging"
DRAFT = ".draft-"

# A plain file name: no separator, no leading dot or dash, nothing that a shell or a terminal takes for more than a name; nor
# the manifest's own, which would be replaced by it.
FILE_NAME = r"^(?!manifest\.json$)[A-Za-z0-9_][A-Za-z0-9_.+=-]{0,199}$(?!\n)"


def graph_file(precision: Precision, *, cpu: bool = False) -> str:
    """The name of an ONNX file.

    Args:
        precision: of the graph.
        cpu: the INT8 file for ONNX Runtime's CPU kernels, which have a placement of their own.

    Returns:
        As in `model.int8.onnx`.
    """
    return precision.graph_file("cpu" if cpu else "tensorrt")


def plan_file(precision: Precision, flavour: str, version: str, built_for: str, *, version_compatible: bool = False) -> str:
    """The name of a plan.

    Args:
        precision: of its graph.
        flavour, version: of the package that built it.
        built_for: the GPUs, as in sm86-sm89.
        version_compatible: whether later versions run it too; it stands beside the faster one that they do not run.

    Returns:
        As in `model.int8.tensorrt-rtx-1.7.1.116.sm86-sm89.plan`.
    """
    return f"model.{precision.value}.{flavour}-{version}.{built_for}{'.version-compatible' * version_compatible}.plan"


def timing_cache_file(flavour: str, version: str, built_for: str) -> str:
    """The times of kernels that a builder keeps."""
    return f"timing.{flavour}-{version}.{built_for}.cache"


def runtime_cache_file(plan: str, version: str, gpu: str) -> str:
    """The kernels that a version of TensorRT-RTX compiled for a plan on a GPU."""
    return f"{plan.removesuffix('.plan')}.{gpu}-{version}.runtime-cache"


def loadgen_prefix(candidate: str, scenario: str) -> str:
    """What the names of LoadGen's logs of a candidate in a scenario begin with."""
    return f"loadgen.{slug(candidate)}.{scenario}."


def slug(text: str) -> str:
    """A text as a part of a file's name."""
    return re.sub(r"[^\w.=+-]+", "-", text, flags=re.ASCII).strip("-.") or "model"
