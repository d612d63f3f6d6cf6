"""A backend as LoadGen's system under test.

LoadGen calls back from C++, which cannot be unwound by a Python exception: nothing is raised into it. The first error is
kept, and all that is asked after it is answered with nothing, so that the run ends soon.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_deploy.backends.base import Backend
from resnet_deploy.benchmarking.mlperf.samples import Library
from resnet_deploy.parity.metrics import ranking


class System:
    """LoadGen's system under test: answers in the thread that asks, in batches of the sizes given, ascending.

    error: the first that was raised in a call from LoadGen; none is raised into it.
    """

    def __init__(self, lg: Any, backend: Backend, library: Library, sizes: tuple[int, ...], *, accuracy: bool = False) -> None:
        self._lg, self._backend, self._library, self._sizes, self._accuracy = lg, backend, library, sizes, accuracy
        self._stopped = threading.Event()
        self.error: BaseException | None = None

    @property
    def stopped(self) -> bool:
        return self._stopped.is_set()

    def stop(self, error: BaseException | None = None) -> None:
        """Infer no more; the first error is kept."""
        self.error = self.error or error
        self._stopped.set()

    def load(self, samples: list[int]) -> None:
        """LoadGen's LoadSamplesToRam."""
        self._guarded(lambda: self._library.load(samples))

    def issue(self, ids: list[int], samples: list[int]) -> None:
        """LoadGen's IssueQuery."""
        largest = self._sizes[-1]
        for start in range(0, len(ids), largest):
            self.answer(ids[start : start + largest], samples[start : start + largest])

    def flush(self) -> None:
        """LoadGen's FlushQueries."""

    def close(self) -> None:
        """After the run."""

    def warm_up(self) -> None:
        """One inference of every size, in the thread that will infer."""
        self._guarded(lambda: [self._backend.infer(np.stack([self._library.image] * size)) for size in self._sizes])

    def answer(self, ids: list[int], samples: list[int]) -> None:
        """Infer at most the largest size of samples, and tell LoadGen; with nothing where the run was stopped."""
        answers = self._guarded(lambda: self._infer(samples))
        lg = self._lg
        if not self._accuracy or answers is None:
            lg.QuerySamplesComplete([lg.QuerySampleResponse(sample_id, 0, 0) for sample_id in ids])
            return
        address, width = answers.ctypes.data, answers.itemsize  # LoadGen copies before it returns
        lg.QuerySamplesComplete(
            [lg.QuerySampleResponse(sample_id, address + width * i, width) for i, sample_id in enumerate(ids)]
        )

    def _infer(self, samples: list[int]) -> NDArray[np.int32] | None:
        size = next(size for size in self._sizes if size >= len(samples))
        outputs = self._backend.infer(self._library.images(samples, size))
        if not self._accuracy:
            return None
        classes = ranking(outputs)
        assert classes is not None  # asked before the run
        return np.ascontiguousarray(classes[:, 0], np.int32)

    def _guarded(self, work: Callable[[], Any]) -> Any:
        """What work returns; None where it fails, or where the run was stopped."""
        if not self._stopped.is_set():
            try:
                return work()
            except BaseException as exc:
                self.stop(exc)
        return None


class Server(System):
    """The Server scenario: queries are put into a queue, of which a thread takes what there is, up to the largest batch."""

    _FLUSH, _CLOSE = (-1, -1), (-2, -2)

    def __init__(self, lg: Any, backend: Backend, library: Library, sizes: tuple[int, ...], *, accuracy: bool = False) -> None:
        super().__init__(lg, backend, library, sizes, accuracy=accuracy)
        self._queue: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
        self._ready = threading.Event()
        self._worker = threading.Thread(target=self._work, name="loadgen-worker", daemon=True)

    def warm_up(self) -> None:
        self._worker.start()
        self._ready.wait()

    def issue(self, ids: list[int], samples: list[int]) -> None:
        for pair in zip(ids, samples, strict=True):
            self._queue.put(pair)

    def flush(self) -> None:
        self._queue.put(self._FLUSH)

    def close(self) -> None:
        self._queue.put(self._CLOSE)
        self._worker.join()

    def _work(self) -> None:
        super().warm_up()
        self._ready.set()
        held: list[tuple[int, int]] = []
        while True:
            batch, mark = self._take()
            if self._stopped.is_set():
                # Unanswered they pile up, and LoadGen ends a Server run early for that alone.
                held += batch
                if mark is not None:
                    self._give(held)
                    held = []
            else:
                self._give(batch)
            if mark == self._CLOSE:
                return

    def _give(self, batch: list[tuple[int, int]]) -> None:
        if batch:
            ids, samples = zip(*batch, strict=True)
            super().issue(list(ids), list(samples))

    def _take(self) -> tuple[list[tuple[int, int]], tuple[int, int] | None]:
        """What is queued, at least one entry and at most a batch, and the mark that ended it."""
        batch: list[tuple[int, int]] = []
        item = self._queue.get()
        while item not in (self._FLUSH, self._CLOSE):
            batch.append(item)
            if len(batch) == self._sizes[-1]:
                return batch, None
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return batch, None
        return batch, item
