"""Which candidates are verified or measured: what this machine runs, in the precisions asked for or those of a bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

from resnet_deploy._deps import version
from resnet_deploy._machine import gpus
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.backends.table import BACKENDS
from resnet_deploy.bundle.manifest import GraphFile
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.errors import UnavailableError, UsageError
from resnet_deploy.pipeline.lowering_options import LoweringOptions
from resnet_deploy.precisions import Precision, all_precisions
from resnet_deploy.specs import listed

Adapt = Callable[[Candidate], Candidate]


def as_named(candidate: Candidate) -> Candidate:
    """A candidate as it was named."""
    return candidate


def choose_candidates(
    bundle: Bundle,
    backend: str | Iterable[str] | None,
    precisions: Iterable[Precision] | None,
    adapt: Adapt = as_named,
) -> list[Candidate]:
    """Choose what is verified or measured of a bundle.

    Args:
        bundle: what holds the files.
        backend: one or several that were named; None for every one of this machine that runs a file of the bundle.
        precisions: those that were named; None for every one that the bundle holds.
        adapt: gives each candidate options that were not named with it.

    Returns:
        Candidates, each once, by backend and then by precision.

    Raises:
        UsageError: a backend is unknown, or has kernels for none of the precisions.
    """
    held = {entry.precision for entry in bundle.manifest.files(GraphFile).values()}
    kinds = tuple(kind for kind in all_precisions() if kind in held) if precisions is None else tuple(precisions)
    if backend is None:
        rows = {name: Candidate.parse(name).row for name in backends_here()}
        names = [name for name, row in rows.items() if row.runs == "network" or {*kinds} & {*row.precisions}]
    else:
        names = listed(backend)
    candidates = candidates_of(names, kinds, adapt)
    if precisions is None or backend is None:  # the INT8 file for another target is no reason to fail
        present = bundle.manifest.artifacts
        candidates = [candidate for candidate in candidates if candidate.artifact in present] or candidates
    return candidates


def candidates_to_verify(
    opened: OpenedBundle, backend: str | Iterable[str] | None, precision: str | Iterable[str] | None
) -> list[Candidate]:
    """Choose what `verify` compares with the reference, as its arguments `backend` and `precision` say.

    Raises:
        UsageError: a backend or a precision is unknown, or no backend of this machine has a file in one of the precisions.
    """
    if precision is None:
        return [Candidate.parse(text) for text in listed("onnxruntime" if backend is None else backend)]
    kinds = LoweringOptions(precision=precision).precisions  # type: ignore[arg-type]
    candidates = choose_candidates(opened.bundle, backend, kinds)
    if backend is not None:
        return candidates
    candidates = [candidate for candidate in candidates if candidate.row.runs != "network" and _has_file(opened, candidate)]
    if missing := [kind.value for kind in kinds if kind not in {candidate.precision for candidate in candidates}]:
        raise UsageError(
            f"{opened.bundle.path} has no {missing[0]} file that a backend of this machine runs; make one with `resnet-deploy "
            f"export {opened.bundle.path} --precision {missing[0]}`, or name a backend with --backend"
        )
    return candidates


def _has_file(opened: OpenedBundle, candidate: Candidate) -> bool:
    """Whether a candidate's file was made and, of a plan, runs on this machine."""
    try:
        opened.file(candidate)
    except (UsageError, UnavailableError):
        return False
    return True


def backends_here() -> list[str]:
    """The backends that run on this machine, eager first; then those of a GPU where there is one."""
    present = {"cpu": True, "cuda": bool(gpus(needed=True))}
    return [
        row.name if device == row.default_device(()) else f"{row.name}:{device}"
        for device, here in present.items()
        for row in BACKENDS.values()
        if here and device in row.devices and version(row.devices[device].package) is not None
    ]


def candidates_of(backend: str | Iterable[str], precisions: Iterable[Precision], adapt: Adapt = as_named) -> list[Candidate]:
    """Backends as they are, and those that run files in every precision that is asked for and that they have.

    Raises:
        UsageError: a backend has none of them.
    """
    kinds = list(precisions)
    candidates: dict[Candidate, None] = {}
    for text in listed(backend):
        candidate = adapt(Candidate.parse(text))
        plain = candidate.precision is Precision.FP32 and candidate.row.runs != "network"
        wanted = [kind for kind in kinds if kind in candidate.row.precisions] if plain else [candidate.precision]
        if not wanted:
            raise UsageError(_without_kernels(candidate, [kind.value for kind in kinds]))
        candidates |= dict.fromkeys(replace(candidate, precision=precision) for precision in wanted)
    if not candidates:
        raise UsageError("there is no backend to run; name one, as in --backend onnxruntime")
    return list(candidates)


def _without_kernels(candidate: Candidate, precisions: list[str]) -> str:
    able = [
        f"{row.name}:{precisions[0]}" if row.runs == "network" else row.name
        for row in BACKENDS.values()
        if precisions[0] in row.precisions
    ]
    return f"{candidate.backend} has no kernels in {' or '.join(precisions)}; backends for {precisions[0]}: {', '.join(able)}"
