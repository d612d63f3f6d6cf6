"""Backends and eager PyTorch over the same images, none on images that its file was calibrated on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_deploy.backends.base import Backend
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.bundle.codec import key_of, now
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.bundle.records import JudgedData, ParityRecord, SkippedImage
from resnet_deploy.data.dataset import Batch, Dataset
from resnet_deploy.data.preprocessing import CENTRE
from resnet_deploy.errors import DataError
from resnet_deploy.parity.metrics import OutputComparison, average_views
from resnet_deploy.specs import Progress, silent

REFERENCE = Candidate(backend="eager")
Guard = Callable[[Candidate], AbstractContextManager[None]]


def _raising(candidate: Candidate) -> AbstractContextManager[None]:
    return nullcontext()


class _Judged:
    """A candidate while it is compared. seen: digests of the images that it was calibrated on."""

    def __init__(self, seen: frozenset[str]) -> None:
        self.seen, self.comparison, self.excluded = seen, OutputComparison(), 0

    def add(self, expected: Mapping[str, NDArray[Any]], answers: Answers, part: Batch, digests: list[str]) -> None:
        """Compare the answers to the images that the candidate has not seen."""
        if self.seen:
            images = len(part.images)
            part, kept = _without(part, digests, self.seen)
            self.excluded += images - len(kept)
            expected = {name: values[kept] for name, values in expected.items()}
        if len(part.images):
            self.comparison.add(expected, answers(part.images, expected), part.labels)


# Images, and the reference's answers to them → the candidate's answers.
Answers = Callable[[NDArray[Any], Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]


def compare_answers(
    opened: OpenedBundle,
    candidates: list[Candidate],
    dataset: Dataset,
    *,
    batch: int,
    threads: int | None = None,
    progress: Progress = silent,
    guard: Guard = _raising,
) -> dict[Candidate, ParityRecord]:
    """Run candidates and eager over the same batches once.

    Args:
        opened: the opened bundle.
        candidates: what is compared; each on the images that its own file was not calibrated on.
        dataset: images, and labels where there are any.
        batch: inferences at a time; with several crops, of an image's views.
        threads: CPU threads of each backend.
        progress: told how many images were read.
        guard: what is done with one candidate happens within it; one whose error it takes is left out.

    Returns:
        Parity records in the candidates' order.
    """
    judged: dict[Candidate, _Judged] = {}
    with ExitStack() as stack:
        loaded = _loaded(opened, candidates, threads, stack, guard)
        judged = {candidate: _Judged(opened.seen(candidate)) for candidate in candidates if candidate in loaded}
        digested = any(state.seen for state in judged.values())
        for part in dataset.batches(max(1, batch // dataset.crops), lambda done: progress("verify", done, len(dataset))):
            expected = _answers(loaded[REFERENCE], part.images, dataset.crops, batch)
            digests = list(_digests(part, dataset.crops)) if digested else []
            for candidate, state in [*judged.items()]:
                del judged[candidate]
                with guard(candidate):
                    state.add(expected, _answering(loaded[candidate], candidate, dataset.crops, batch), part, digests)
                    judged[candidate] = state
        described = {candidate: dict(loaded[candidate].describe()) for candidate in judged}
    return {
        candidate: _record(opened, candidate, judged[candidate], dataset, batch, described[candidate])
        for candidate in candidates
        if candidate in judged
    }


def _answering(backend: Backend, candidate: Candidate, crops: int, batch: int) -> Answers:
    if candidate == REFERENCE:
        return lambda images, expected: expected
    return lambda images, expected: _answers(backend, images, crops, batch)


def _record(
    opened: OpenedBundle, candidate: Candidate, state: _Judged, dataset: Dataset, batch: int, runtime: dict[str, Any]
) -> ParityRecord:
    images, use = len(dataset) - len(dataset.skipped) - state.excluded, opened.calibration_of(candidate)
    if not images:
        raise DataError(f"{candidate.artifact} was calibrated on all images of {dataset.source}: verify it on others")
    data = JudgedData(
        source=dataset.source, sha256=dataset.sha256, crops=dataset.crops, images=images, calibrated_on=state.excluded,
        skipped=tuple(SkippedImage(name=item.name, reason=item.reason) for item in dataset.skipped),
        notes=tuple(dataset.notes),
        judged_on=key_of(data=dataset.sha256, crops=dataset.crops, excluded=use.key if use and state.excluded else None),
    )  # fmt: skip
    return ParityRecord(
        candidate=str(candidate), made_from=opened.made_from(candidate), reference=opened.made_from(REFERENCE), data=data,
        batch=batch, runtime=runtime, created=now(), report=state.comparison.report(),
    )  # fmt: skip


def _loaded(
    opened: OpenedBundle, candidates: list[Candidate], threads: int | None, stack: ExitStack, guard: Guard
) -> dict[Candidate, Backend]:
    """The reference, and the candidates that load."""
    loaded = {REFERENCE: stack.enter_context(opened.backend(REFERENCE, threads))}
    for candidate in candidates:
        if candidate not in loaded:
            with guard(candidate):
                loaded[candidate] = opened.backend(candidate, threads)
                stack.callback(_close, loaded[candidate], candidate, guard)
    return loaded


def _close(backend: Backend, candidate: Candidate, guard: Guard) -> None:
    with guard(candidate):  # one that died may not even close
        backend.close()


def _digests(part: Batch, crops: int) -> Iterator[str]:
    """Of each image's centre crop, as calibration has it."""
    from resnet_deploy.precision.calibrate import image_digest

    return map(image_digest, part.images if crops == 1 else part.images[:, CENTRE])


def unseen(part: Batch, seen: frozenset[str]) -> Batch:
    """Without images of these digests."""
    if not seen:
        return part
    return _without(part, _digests(part, 1), seen)[0]


def _without(part: Batch, digests: Iterable[str], seen: frozenset[str]) -> tuple[Batch, list[int]]:
    """The images of other digests, and their places."""
    kept = [index for index, digest in enumerate(digests) if digest not in seen]
    return Batch(images=part.images[kept], labels=None if part.labels is None else part.labels[kept]), kept


def _answers(backend: Backend, images: NDArray[Any], crops: int, batch: int) -> Mapping[str, NDArray[Any]]:
    """A backend's outputs for (N, ...) images, or for (N, crops, ...) the average over the crops."""
    if crops == 1:
        return backend.infer_any(images)
    views = images.reshape(-1, *images.shape[2:])
    parts = [backend.infer_any(views[start : start + batch]) for start in range(0, len(views), batch)]
    return {name: average_views(name, np.concatenate([part[name] for part in parts]), crops) for name in parts[0]}
