"""Which candidates are measured: what this machine runs, in the precisions that are asked for or that a bundle holds."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from resnet_deploy._deps import version
from resnet_deploy._machine import gpus
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.backends.table import BACKENDS
from resnet_deploy.benchmarking.settings import MeasureOptions
from resnet_deploy.bundle.manifest import GraphFile
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.errors import UsageError
from resnet_deploy.pipeline.lower import LoweringOptions
from resnet_deploy.precisions import Precision, all_precisions


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
    kinds = precisions.precisions if precisions is not None else tuple(kind for kind in all_precisions() if kind in held)
    if backends is None:
        rows = {name: Candidate.parse(name).row for name in backends_here()}
        names = [name for name, row in rows.items() if row.runs == "network" or {*kinds} & {*row.precisions}]
    else:
        names = list(backends)
    candidates = candidates_of(names, kinds, options)
    if precisions is None or backends is None:  # the INT8 file for another target is no reason to fail
        present = bundle.manifest.artifacts
        candidates = [candidate for candidate in candidates if candidate.artifact in present] or candidates
    return candidates


def backends_here() -> list[str]:
    """The backends that run on this machine, eager first; then those of a GPU where there is one."""
    present = {"cpu": True, "cuda": bool(gpus(needed=True))}
    return [
        row.name if device == row.default_device(()) else f"{row.name}:{device}"
        for device, here in present.items()
        for row in BACKENDS.values()
        if here and device in row.devices and version(row.devices[device].package) is not None
    ]


def candidates_of(backends: Iterable[str], precisions: Iterable[Precision], options: MeasureOptions) -> list[Candidate]:
    """Backends as they are, and those that run files in every precision that is asked for and that they have.

    Raises:
        UsageError: a backend has none of them.
    """
    kinds = list(precisions)
    candidates: dict[Candidate, None] = {}
    for text in backends:
        candidate = options.applied(Candidate.parse(text))
        plain = candidate.precision is Precision.FP32 and candidate.row.runs != "network"
        wanted = [kind for kind in kinds if kind in candidate.row.precisions] if plain else [candidate.precision]
        if not wanted:
            raise UsageError(_without_kernels(candidate, [kind.value for kind in kinds]))
        candidates |= dict.fromkeys(replace(candidate, precision=precision) for precision in wanted)
    if not candidates:
        raise UsageError("there is no backend to measure; name one, as in --backend onnxruntime")
    return list(candidates)


def _without_kernels(candidate: Candidate, precisions: list[str]) -> str:
    able = [
        f"{row.name}:{precisions[0]}" if row.runs == "network" else row.name
        for row in BACKENDS.values()
        if precisions[0] in row.precisions
    ]
    return f"{candidate.backend} has no kernels in {' or '.join(precisions)}; backends for {precisions[0]}: {', '.join(able)}"
