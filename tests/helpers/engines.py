"""Plans by TensorRT-RTX's builder, which runs without a GPU, and by whatever a machine with one has."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.bundle.codec import signed
from resnet_deploy.bundle.manifest import PlanFile
from resnet_deploy.bundle.names import MANIFEST
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.engine.build import Built, build_plan
from resnet_deploy.engine.flavours import TENSORRT_RTX
from resnet_deploy.engine.options import BuildOptions
from resnet_deploy.engine.report import summarize
from resnet_deploy.errors import MissingPackageError, UnavailableError
from resnet_deploy.pipeline.build import ensure_plan, graph_layers
from resnet_deploy.specs import silent

FLAVOURS = ["tensorrt", "tensorrt-rtx"]


def build(path: Path, target: str = "sm86") -> Built:
    """A plan for batches of 1 to 8."""
    return build_plan(path, BuildOptions(batch="1:2:8"), TENSORRT_RTX, (target,), silent)


def build_report(path: Path, target: str) -> dict[str, str]:
    """Of every convolution, by the name of its node, the precision of the engine layer that computes it."""
    return summarize(build(path, target).layers, *graph_layers(path)).layers


def ready(bundle: Bundle, text: str, batches: tuple[int, ...] = (1, 5, 8)) -> None:
    """Plans that a backend needs, or a skip where its package is missing, or has no kernels for this GPU."""
    try:
        ensure_plan(OpenedBundle(bundle), Candidate.parse(text), batches, smaller=True)
    except MissingPackageError as exc:
        pytest.skip(str(exc))
    except UnavailableError as exc:
        if "does not support" not in str(exc):
            raise
        pytest.skip(str(exc))


def compatible(bundle: Bundle, folder: Path, content: bytes = b"ftrt" + bytes(4092), **origin: Any) -> Path:
    """A copy of a bundle with a plan of TensorRT-RTX whose plan is, by its manifest, a version-compatible one of TensorRT
    11.4, which cannot be built here; its bytes are a header, or what is given."""
    shutil.copytree(bundle.path, folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    (name,) = bundle.manifest.files(PlanFile)
    (folder / name).write_bytes(content)
    plan = manifest["artifacts"][name]
    plan.update(sha256=hashlib.sha256(content).hexdigest(), size_bytes=len(content))
    h200 = {"gpu": "NVIDIA H200", "compute_capability": "9.0", "targets": []}
    plan["origin"] |= {"flavour": "tensorrt", "version": "11.4.0.106", "version_compatible": True, **h200, **origin}
    (folder / MANIFEST).write_bytes(signed(manifest))
    return folder
