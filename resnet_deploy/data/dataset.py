"""Images in a fixed order, read by worker threads and given out in batches."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_deploy._machine import cores
from resnet_deploy.data.images import reason_of
from resnet_deploy.data.labels import LabelOrder
from resnet_deploy.errors import DataError


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """An image that could not be used.

    Attributes:
        name: of its file, or its number.
        reason: in words.
    """

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Images that go through a model together.

    Attributes:
        images: (N, ...) as the model takes them.
        labels: class indices, (N,) int64, where there are any.
    """

    images: NDArray[Any]
    labels: NDArray[np.int64] | None


@dataclass(kw_only=True)
class Dataset:
    """Images in a fixed order.

    Attributes:
        source: what the user called them.
        count: how many there are.
        read: gives image i as the model takes it, or raises OSError or ValueError.
        name_of: gives the name of image i.
        digest: gives what identifies all of them.
        labels: class indices, (count,) int64.
        class_names: of all classes that labels may index, where they are known.
        label_order: how folders or names became indices; None without labels.
        notes: what was assumed, in words, to be printed as warnings.
        strict: whether a bad image is an error.
        crops: views of each image, along a first axis where there are several.
        skipped: filled while `batches` runs.
    """

    source: str
    count: int
    read: Callable[[int], NDArray[Any]] = field(repr=False)
    name_of: Callable[[int], str] = field(repr=False)
    digest: Callable[[], str] = field(repr=False)
    labels: NDArray[np.int64] | None = None
    class_names: tuple[str, ...] | None = None
    label_order: LabelOrder | None = None
    notes: list[str] = field(default_factory=list)
    strict: bool = False
    crops: int = 1
    skipped: list[Skipped] = field(default_factory=list)
    _sha256: str | None = None

    def __len__(self) -> int:
        return self.count

    @property
    def sha256(self) -> str:
        """Of the files' bytes or the arrays' values, and of the labels."""
        if self._sha256 is None:
            labels = b"" if self.labels is None else self.labels.tobytes()
            self._sha256 = hashlib.sha256(os.fsencode(self.digest()) + labels).hexdigest()
        return self._sha256

    def batches(self, batch: int, progress: Callable[[int], None] | None = None) -> Iterator[Batch]:
        """All images once, decoded by worker threads one batch ahead.

        Args:
            batch: images at a time.
            progress: told how many were read.

        Yields:
            Batches, the last one shorter where the number does not divide.

        Raises:
            DataError: a bad image where strict, or none that could be read.
        """
        self.skipped.clear()
        images: list[NDArray[Any]] = []
        kept: list[int] = []
        for index, item in self._decoded(ahead=batch):
            if progress is not None:
                progress(index + 1)
            if isinstance(item, Skipped):
                self.skipped.append(item)
                continue
            images.append(item)
            kept.append(index)
            if len(images) == batch:
                yield self._batch(images, kept)
                images, kept = [], []
        if images:
            yield self._batch(images, kept)
        if len(self.skipped) == self.count:
            first = self.skipped[0]
            raise DataError(f"none of the {self.count} images of {self.source} can be read; {first.name}: {first.reason}")

    def _batch(self, images: list[NDArray[Any]], kept: list[int]) -> Batch:
        return Batch(images=np.stack(images), labels=None if self.labels is None else self.labels[kept])

    def _decoded(self, *, ahead: int) -> Iterator[tuple[int, NDArray[Any] | Skipped]]:
        workers = cores()
        with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
            numbers = iter(range(self.count))
            waiting = deque((i, pool.submit(self._read, i)) for i in itertools.islice(numbers, ahead + workers))
            while waiting:
                index, future = waiting.popleft()
                waiting.extend((i, pool.submit(self._read, i)) for i in itertools.islice(numbers, 1))
                yield index, future.result()

    def _read(self, index: int) -> NDArray[Any] | Skipped:
        try:
            return self.read(index)
        except (OSError, ValueError) as exc:
            reason = (isinstance(exc, OSError) and exc.strerror) or reason_of(exc)
            bad = Skipped(name=self.name_of(index), reason=reason)
            if self.strict:
                raise DataError(f"{bad.name}: {bad.reason}. Remove it, or run without --strict to skip it") from exc
            return bad


def subset(dataset: Dataset, limit: int) -> Dataset:
    """Keep some of a data set's images, evenly spaced, so that every class folder is represented.

    Args:
        dataset: with its images in order.
        limit: how many to keep, at most as many as there are.

    Returns:
        Another data set.

    Raises:
        DataError: there would be none.
    """
    if limit < 1:
        raise DataError(f"a limit of {limit} leaves no image")
    chosen = np.linspace(0, len(dataset) - 1, limit).round().astype(np.int64)
    return Dataset(
        source=f"{dataset.source} ({limit} of {len(dataset)})", count=limit, strict=dataset.strict, crops=dataset.crops,
        read=lambda number: dataset.read(int(chosen[number])),
        name_of=lambda number: dataset.name_of(int(chosen[number])),
        digest=lambda: f"{dataset.digest()} {limit}",
        labels=None if dataset.labels is None else dataset.labels[chosen],
        class_names=dataset.class_names, label_order=dataset.label_order, notes=list(dataset.notes),
    )  # fmt: skip
