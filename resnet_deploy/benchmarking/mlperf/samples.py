"""The images of a benchmark by number, in memory as far as they may be: LoadGen's query sample library."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_deploy.data.dataset import Dataset
from resnet_deploy.errors import DataError
from resnet_deploy.pipeline.compare_answers import unseen

HELD_IMAGES = 1024  # MLPerf's performance sample count of ResNet-50
HELD_BYTES = 1 << 30


class Library:
    """LoadGen's query sample library over a dataset: its readable images that the bundle was not calibrated on.

    everything: find all of them, as accuracy needs; else as many as may be held. Where there are more than that, LoadGen says
    which are to be loaded. labels: (len,) int64, where there are any. Raises DataError where no image is left.
    """

    def __init__(self, dataset: Dataset, *, seen: frozenset[str] = frozenset(), everything: bool = False) -> None:
        self._dataset = dataset
        self._numbers: list[int] = []
        self._rows: dict[int, int] | None = None
        self.limited = False
        self.capacity = HELD_IMAGES
        held: list[NDArray[Any]] = []
        for done, part in enumerate(dataset.batches(1)):
            if not len(unseen(part, seen).images):
                continue
            if not held:
                self.capacity = max(1, min(HELD_IMAGES, HELD_BYTES // part.images.nbytes))
            if len(held) < self.capacity:
                held.append(part.images[0])
            else:
                self.limited = True
            if self.limited and not everything:
                break
            self._numbers.append(done + len(dataset.skipped))  # one at a time: those before it were given or skipped
        if not held:
            raise DataError(f"the bundle was calibrated on all images of {dataset.source}: measure it on others")
        self.image = held[0]
        self._images = np.stack(held) if not self.limited or not everything else None
        self.labels = None if dataset.labels is None else dataset.labels[self._numbers]

    def __len__(self) -> int:
        return len(self._numbers)

    def load(self, samples: Iterable[int]) -> None:
        """Read what is not held already. Raises OSError or ValueError for an image that has become unreadable."""
        if self._images is None or self._rows is not None:
            wanted = list(dict.fromkeys(samples))
            with ThreadPoolExecutor() as pool:
                self._images = np.stack(list(pool.map(self._dataset.read, [self._numbers[sample] for sample in wanted])))
            self._rows = {sample: row for row, sample in enumerate(wanted)}

    def images(self, samples: list[int], size: int) -> NDArray[Any]:
        """A batch of the loaded samples, the last one repeated up to `size`."""
        assert self._images is not None
        rows = samples if self._rows is None else [self._rows[sample] for sample in samples]
        if size == 1:
            return self._images[rows[0] : rows[0] + 1]
        return np.asarray(self._images[[*rows, *rows[-1:] * (size - len(rows))]])
