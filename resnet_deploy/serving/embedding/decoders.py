"""Images decoded by processes on all cores, some batches ahead of the model.

Threads would share Python's lock, which decoding holds for a tenth of the time: ten cores' worth would be the most.
"""

from __future__ import annotations

import contextlib
import math
import pickle
import queue
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

import resnet_deploy
from resnet_deploy._files import writing
from resnet_deploy.errors import BackendError, StorageError
from resnet_deploy.serving.embedding.decode_worker import FAILURE, HEADER, PIXELS
from resnet_deploy.serving.embedding.decoding import Decoder
from resnet_deploy.serving.embedding.locks import InheritedLock

_PIECE = 4  # images that a worker is given at once
_START = (
    "import sys; sys.path[0] = sys.argv[1]; "  # in place of the current folder
    "from resnet_deploy.serving.embedding.decode_worker import main; main()"
)


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """A batch from position `start` on. images: (N, ...), valid until the next one is asked for, zeros where `reasons`,
    one for each, says why there is no image."""

    start: int
    paths: list[bytes]
    images: NDArray[Any]
    reasons: list[str | None]


class Decoders:
    """Worker processes, which end with this one, however it ends. Use it in a `with` block.

    workers: how many. batch: the most images that `decoded` is given at a time. scratch: a folder for an unnamed file, by which
    large images are decoded one at a time; that for temporary files where None. Memory is that of the batches ahead, whatever
    the number of images.
    """

    def __init__(self, decoder: Decoder, *, workers: int, batch: int, scratch: Path | None = None) -> None:
        with writing(scratch or Path(tempfile.gettempdir())):
            self._lock_file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 (closed on exit)
        lock = InheritedLock(self._lock_file.fileno())
        self._shape, self._dtype = (batch, *decoder.shape), decoder.dtype
        self._ahead = 1 + math.ceil(2 * workers * _PIECE / batch)
        self._closing = False
        self._workers = [_Worker(decoder, lock) for _ in range(workers)]
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")

    def decoded(self, work: Iterable[tuple[int, list[bytes]]]) -> Iterator[Decoded]:
        """The batches of paths, in their order. Raises StorageError where reading fails for no fault of an image."""
        remaining, free = iter(work), [np.zeros(self._shape, self._dtype) for _ in range(self._ahead + 1)]
        waiting: deque[tuple[int, list[bytes], NDArray[Any], list[Future[list[str | None]]]]] = deque()

        def submit() -> None:
            for start, paths in remaining:
                images = free.pop()
                pieces = range(0, len(paths), _PIECE)
                futures = [self._pool.submit(self._piece, paths[i : i + _PIECE], images[i : i + _PIECE]) for i in pieces]
                waiting.append((start, paths, images, futures))
                return

        for _ in range(self._ahead + 1):
            submit()
        while waiting:
            start, paths, images, futures = waiting.popleft()
            reasons = [reason for future in futures for reason in future.result()]
            yield Decoded(start=start, paths=paths, images=images[: len(paths)], reasons=reasons)
            free.append(images)
            submit()

    def _piece(self, paths: list[bytes], images: NDArray[Any]) -> list[str | None]:
        worker = self._idle.get()
        try:
            reasons = list(worker.decode(paths, images))
            while len(reasons) < len(paths):  # a codec crashed: that image is bad, a new process takes the others
                if self._closing:
                    raise BackendError("decoding was stopped")
                reasons.append(f"reading it ended the decoder: {worker.restart()}")
                images[len(reasons) - 1] = 0
                reasons += worker.decode(paths[len(reasons) :], images[len(reasons) :])
            return reasons
        finally:
            self._idle.put(worker)

    def __enter__(self) -> Decoders:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        for worker in self._workers:
            worker.process.kill()
        self._pool.shutdown(cancel_futures=True)
        for worker in self._workers:
            worker.close()
        self._lock_file.close()


class _Worker:
    """One process and its pipes."""

    def __init__(self, decoder: Decoder, lock: InheritedLock) -> None:
        self._decoder, self._lock = replace(decoder, large_lock=lock), lock
        self._start()

    def _start(self) -> None:
        root = Path(resnet_deploy.__file__).parent.parent
        self.process = subprocess.Popen(
            [sys.executable, "-c", _START, str(root)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=(self._lock.descriptor,),
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self._requests, self._answers = self.process.stdin, self.process.stdout
        with contextlib.suppress(BrokenPipeError):  # that it ended is seen when it should answer
            pickle.dump(self._decoder, self._requests)

    def decode(self, paths: list[bytes], images: NDArray[Any]) -> Iterator[str | None]:
        """A reason, or None, for each path whose image was put into `images`; fewer where the process ended."""
        if not paths:
            return
        with contextlib.suppress(BrokenPipeError):
            pickle.dump(paths, self._requests)
            self._requests.flush()
        for image in images[: len(paths)]:
            header = self._answers.read(HEADER.size)
            if len(header) < HEADER.size:
                return
            kind, size = HEADER.unpack(header)
            if kind == PIXELS:
                if not _fill(self._answers, image):
                    return
                yield None
                continue
            reason = self._answers.read(size).decode()
            if kind == FAILURE:
                self.restart()  # its other answers are not read
                raise StorageError(reason)
            image[:] = 0
            yield reason

    def restart(self) -> str:
        """A new process in place of the one that ended; returns how that was."""
        self.close()
        code = self.process.returncode
        self._start()
        return f"signal {-code}" if code < 0 else f"exit code {code}"

    def close(self) -> None:
        self.process.kill()  # nothing where it has ended
        with contextlib.suppress(BrokenPipeError):
            self._requests.close()
        self._answers.close()
        self.process.wait()


def _fill(stream: IO[bytes], image: NDArray[Any]) -> bool:
    """Read an array's bytes into it; False where there are fewer."""
    view = image.data.cast("B")
    return stream.readinto(view) == len(view)  # type: ignore[attr-defined, no-any-return]
