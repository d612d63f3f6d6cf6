"""Which candidates are measured: what this machine runs, in the precisions that are asked for or that a bundle holds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from resnet_deploy._deps import version
from resnet_deploy._machine import gpus
from resnet_deploy.backends.base import BACKENDS, Candidate
from resnet_deploy.benchmarking.settings import MeasureOptions
from resnet_deploy.bundle.manifest import GraphFile
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.errors import UsageError
from resnet_deploy.pipeline.lower import LoweringOptions
from resnet_deploy.specs import Precision


def chosen(
    bundle: Bundle, backends: Iterable[str] | None, precisions: LoweringOptions | None, options: MeasureOptions
) -> list[Candidate]:
    """What is measured of a bundle.

    Args:
        bundle: what holds the files.
        backends: those that were named; None for every one of this machine that runs a file of the bundle.
        precisions: those that were named; None for every one that the bundle holds.
        options: how backends run.
    """
    held = {entry.precision for entry in bundle.manifest.files(GraphFile).values()}
    kinds = precisions.precisions if precisions is not None else tuple(kind for kind in Precision if kind in held)
    if backends is None:
        runs = {kind.value for kind in kinds}
        names = [name for name in backends_here() if name.startswith("eager") or runs & BACKENDS[Candidate.parse(name).backend]]
    else:
        names = list(backends)
    candidates = candidates_of(names, kinds, options)
    if precisions is None or backends is None:  # the INT8 file for another target is no reason to fail
        present = bundle.manifest.artifacts
        candidates = [candidate for candidate in candidates if candidate.artifact in present] or candidates
    return candidates


def backends_here() -> list[str]:
    """The backends that run on this machine, eager first; those of a GPU where there is one."""
    gpu = bool(gpus(needed=True))
    installed = {name: version(name) is not None for name in ("onnxruntime", "openvino", "tensorrt", "tensorrt_rtx")}
    runs = {
        "eager": True,
        "onnxruntime": installed["onnxruntime"],
        "openvino": installed["openvino"],
        "eager:cuda": gpu,
        "onnxruntime:cuda": gpu and version("onnxruntime-gpu") is not None,
        "tensorrt": gpu and installed["tensorrt"],
        "tensorrt-rtx": gpu and installed["tensorrt_rtx"],
    }
    return [name for name, able in runs.items() if able]


def candidates_of(backends: Iterable[str], precisions: Iterable[Precision], options: MeasureOptions) -> list[Candidate]:
    """Backends as they are, and those that run files in every precision that is asked for and that they have.

    Raises:
        UsageError: a backend has none of them.
    """
    kinds = list(precisions)
    candidates: dict[Candidate, None] = {}
    for text in backends:
        candidate = options.applied(Candidate.parse(text))
        known = BACKENDS[candidate.backend]
        plain = candidate.precision is Precision.FP32 and candidate.backend != "eager"
        wanted = [kind for kind in kinds if kind.value in known] if plain else [candidate.precision]
        if not wanted:
            raise UsageError(_without_kernels(candidate, [kind.value for kind in kinds]))
        candidates |= dict.fromkeys(replace(candidate, precision=precision) for precision in wanted)
    if not candidates:
        raise UsageError("there is no backend to measure; name one, as in --backend onnxruntime")
    return list(candidates)


def _without_kernels(candidate: Candidate, precisions: list[str]) -> str:
    able = [
        f"{name}:{precisions[0]}" if name == "eager" else name for name, known in BACKENDS.items() if precisions[0] in known
    ]
    return f"{candidate.backend} has no kernels in {' or '.join(precisions)}; backends for {precisions[0]}: {', '.join(able)}"
