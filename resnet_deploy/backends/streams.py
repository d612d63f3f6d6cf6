"""Inference on streams of a GPU: what every backend there shares, whatever starts its kernels.

A query has three parts, as trtexec has them: its input to the device (H2D), the inference, its answers back (D2H). Each is
started on a stream and not waited for, so that they can be timed by the device's own clock, and queued.
"""

from __future__ import annotations

import abc
import itertools
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from resnet_deploy.backends.base import Backend, Outputs, Stages
from resnet_deploy.backends.cuda import CudaDevice, dtype_name, to_numpy
from resnet_deploy.errors import UsageError

SHAPES = 4  # batch sizes whose buffers and graph are kept on each stream
AHEAD = 1  # queries that wait behind the one that runs, as in trtexec
OCCUPIED = 5  # times that a query is started anew with the device busy for twice as long, since it was done too early
LEAST_OCCUPIED_S = 100e-6


@dataclass
class Buffers:
    """The memory of one batch size on one stream, and its CUDA graph once there is one.

    Attributes:
        input: the batch on the device.
        staging: the batch in pinned host memory.
        outputs: the answers on the device, by name.
        answers: the answers in pinned host memory, by name.
        context: the backend's own.
        replay: starts the captured graph; None before the capture.
        replay_query: starts the graph of a whole query, from pinned memory to pinned memory; likewise.
        ran: whether an inference was started since the batch was bound.
        answered: whether `answers` holds, or will hold, what the last inference gave.
    """

    input: Any
    staging: Any
    outputs: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    context: Any = None
    replay: Callable[[], None] | None = None
    replay_query: Callable[[], None] | None = None
    ran: bool = False
    answered: bool = False


class Stream(abc.ABC):
    """A stream of a device with one bound batch.

    Args:
        device: whose stream it is.
        captures: whether an inference becomes a CUDA graph, after `settling` runs: the first ones of a shape may still
            allocate and choose kernels.
        handle: the device's own stream; a new one where None.
    """

    settling = 1

    def __init__(self, device: CudaDevice, *, captures: bool, handle: Any = None) -> None:
        self.device, self.handle, self._captures = device, device.stream() if handle is None else handle, captures
        self._kept: OrderedDict[int, Buffers] = OrderedDict()
        self.bound: Buffers | None = None

    @abc.abstractmethod
    def allocate(self, batch: int) -> Buffers:
        """Buffers of a batch size."""

    @abc.abstractmethod
    def execute(self, buffers: Buffers) -> None:
        """Start an inference on the stream."""

    def bind(self, images: NDArray[Any]) -> None:
        """Start the copy of a batch, (N, ...) of the input's dtype and shape, to the device."""
        self._stage(images)
        self.upload()

    def query(self, images: NDArray[Any]) -> None:
        """Start a query from host memory to host memory as one CUDA graph: the copy of the batch, the inference and the copy of
        the answers. Staging memory keeps its address, so that a replay takes what was put there last."""
        buffers = self._stage(images)
        if buffers.replay_query is None:
            self.upload()
            self.enqueue()
            self.download()  # which has memory for the answers from here on
            self.handle.synchronize()
            of_replay = buffers.outputs
            buffers.replay_query = self.device.capture(lambda: self._whole(buffers), self.handle)
            buffers.outputs = of_replay  # a capture may have outputs of its own
        buffers.replay_query()
        buffers.ran = buffers.answered = True

    def _whole(self, buffers: Buffers) -> None:
        self.upload()
        self.execute(buffers)
        self.download()

    def _stage(self, images: NDArray[Any]) -> Buffers:
        """Put a batch into the staging memory of its size, which is bound from here on."""
        self.handle.synchronize()  # the staging memory may still be read
        batch = len(images)
        if batch not in self._kept:
            if len(self._kept) == SHAPES:
                self._kept.popitem(last=False)
            self._kept[batch] = self.allocate(batch)
        self._kept.move_to_end(batch)
        self.bound = buffers = self._kept[batch]
        buffers.ran = buffers.answered = False
        self.device.fill(self.staged(buffers), images)
        return buffers

    def staged(self, buffers: Buffers) -> Any:
        """The staging memory as a tensor (N, ...) of the input's shape, whatever its layout."""
        return buffers.staging

    def upload(self, handle: Any = None) -> None:
        """Start the copy of the batch to the device, on a stream of its own where one is given."""
        buffers = self._bound_buffers()
        self.device.copy(buffers.input, buffers.staging, handle or self.handle)

    def enqueue(self) -> None:
        """Start an inference."""
        buffers = self._bound_buffers()
        buffers.ran, buffers.answered = True, False
        if buffers.replay is not None:
            buffers.replay()
            return
        self.execute(buffers)
        if self._captures:
            for _ in range(self.settling - 1):
                self.execute(buffers)
            self.handle.synchronize()
            buffers.replay = self.device.capture(lambda: self.execute(buffers), self.handle)
            buffers.replay()  # a capture computes nothing, and its answers may be in memory of its own

    def download(self, handle: Any = None) -> None:
        """Start the copy of the answers to the host, on a stream of its own where one is given."""
        buffers = self._bound_buffers()

        def copy() -> None:
            for name, tensor in buffers.outputs.items():
                if name not in buffers.answers:
                    buffers.answers[name] = self.device.pinned(tuple(tensor.shape), dtype_name(tensor))
                buffers.answers[name].copy_(tensor, non_blocking=True)
                if handle is not None:
                    tensor.record_stream(handle)  # its memory may be another tensor's before the copy is done

        self.device.run(copy, handle or self.handle)

    def fetch(self) -> Outputs:
        """The answers of the last inference by name, in host memory. Raises UsageError where there was none."""
        if self.bound is None or not self.bound.ran:
            raise UsageError("there is no answer yet: call enqueue after bind")
        if not self.bound.answered:
            self.download()
        self.handle.synchronize()
        return {name: to_numpy(tensor) for name, tensor in self.bound.answers.items()}

    def close(self) -> None:
        """Wait for what was started, and free the buffers."""
        self.handle.synchronize()
        self.bound = None
        self._kept.clear()

    def _bound_buffers(self) -> Buffers:
        if self.bound is None:
            raise UsageError("there is no batch yet: call bind first")
        return self.bound


class Queue:
    """Queries of a stream's batch in a queue, their copies on streams of their own, as in trtexec: while one query is computed,
    the next one's input comes and the last one's answers go. A copy overwrites what it brings with the same, so that it need
    not wait for who reads it.

    uploads, downloads: copy the input, and the answers. spin: how the host waits.
    """

    def __init__(self, stream: Stream, *, uploads: bool, downloads: bool, spin: bool) -> None:
        self._stream, self._spin, device = stream, spin, stream.device
        self._upload, self._download = (device.stream() if wanted else None for wanted in (uploads, downloads))
        self._marks: deque[Any] = deque()

    def query(self) -> None:
        """Start one, once no more than AHEAD wait."""
        stream, device = self._stream, self._stream.device
        if len(self._marks) > AHEAD:
            self._marks.popleft().synchronize()
        if self._upload is not None:
            stream.upload(self._upload)
            device.follow(stream.handle, self._upload)
        stream.enqueue()
        if self._download is not None:
            device.follow(self._download, stream.handle)
            stream.download(self._download)
        self._marks.append(device.mark(self._download or stream.handle, spin=self._spin))

    def drain(self) -> None:
        """Wait for those that were started."""
        while self._marks:
            self._marks.popleft().synchronize()


class StreamBackend(Backend):
    """A backend on one or more streams of a GPU.

    Each inference goes to the next stream, and the answers are the last one's. A stream is given the batch when it is first
    used, so that one inference on many streams costs one copy. A backend calls `open_streams` when it has loaded its file.

    Attributes:
        device: the GPU.
        streams: at least one.
    """

    device: CudaDevice
    streams: list[Stream]
    _starting_s = 0.0  # the host's time to start a query and its copies
    cuda_graph = False  # whether inferences are started as CUDA graphs, ours or the runtime's
    graph_copies = False  # whether `infer` is one CUDA graph, with the copies of images and answers

    def open_streams(self, device: CudaDevice, streams: Iterable[Stream]) -> None:
        """Run on these streams of a device, without a batch so far.

        Args:
            device: the GPU.
            streams: its streams, each with the loaded model.
        """
        self.device, self.streams = device, list(streams)
        self._next = self._last = 0
        self._with_batch: set[int] = set()

    def bind(self, images: NDArray[Any]) -> None:
        self.check(images)
        self.streams[0].bind(images)
        self._with_batch, self._next, self._last = {0}, 0, 0

    def enqueue(self) -> None:
        self._stream(self._next).enqueue()
        self._last, self._next = self._next, (self._next + 1) % len(self.streams)

    def synchronize(self) -> None:
        for stream in self.streams:
            self.device.wait(stream.handle, spin=self.spin_wait)

    def outputs(self) -> Outputs:
        return self.streams[self._last].fetch()

    def infer(self, images: NDArray[Any]) -> Outputs:
        if not self.graph_copies:
            return super().infer(images)
        self.check(images)
        self._with_batch, self._next, self._last = {0}, 0, 0
        self.streams[0].query(images)
        self.device.wait(self.streams[0].handle, spin=self.spin_wait)
        return self.outputs()

    def annotate(self, name: str) -> AbstractContextManager[None]:
        return self.device.annotate(name)

    def settings(self) -> dict[str, Any]:
        return {"cuda_graph": self.cuda_graph, "graph_copies": self.graph_copies, "streams": len(self.streams)}

    def stages(self) -> Stages:
        """One query of the bound batch on the first stream, by the device's clock.

        The device is kept busy until the host has started all of it: what it waits for the host would count as computation.
        """
        stream, device = self.streams[0], self.device
        stream.enqueue()  # a first one may still allocate, or capture
        for attempt in range(OCCUPIED):
            device.occupy(stream.handle, 2**attempt * max(LEAST_OCCUPIED_S, 2 * self._starting_s))
            start = time.perf_counter()
            marks = [device.mark(stream.handle, timed=True)]
            stream.upload()
            marks.append(device.mark(stream.handle, timed=True))
            enqueued = time.perf_counter()
            stream.enqueue()
            enqueue_s = time.perf_counter() - enqueued
            marks.append(device.mark(stream.handle, timed=True))
            stream.download()
            marks.append(device.mark(stream.handle, timed=True))
            self._starting_s = time.perf_counter() - start
            if not marks[0].query():  # it was still busy
                break
        stream.handle.synchronize()
        h2d_s, compute_s, d2h_s = (device.seconds(begin, end) for begin, end in itertools.pairwise(marks))
        return Stages(enqueue_s=enqueue_s, h2d_s=h2d_s, compute_s=compute_s, d2h_s=d2h_s)

    def run_queued(self, seconds: float, *, uploads: bool = False, downloads: bool = False) -> tuple[int, float]:
        """As `Backend.run_queued`, with `AHEAD` queries waiting on each stream.

        Args:
            seconds: how long to start new queries.
            uploads: copy the input to the device with each query.
            downloads: copy the answers back with each query.

        Returns:
            How many queries there were, and how many seconds they took.
        """
        for number in range(len(self.streams)):
            self._stream(number).enqueue()  # a first one may still allocate, or capture
        self.synchronize()
        queues = [Queue(stream, uploads=uploads, downloads=downloads, spin=self.spin_wait) for stream in self.streams]
        done, start = 0, time.perf_counter()
        for queue in itertools.cycle(queues):
            if done >= len(queues) and time.perf_counter() - start >= seconds:
                break
            queue.query()
            done += 1
        for queue in queues:
            queue.drain()
        return done, time.perf_counter() - start

    def close(self) -> None:
        for stream in self.streams:
            stream.close()
        self.streams = []

    def _stream(self, number: int) -> Stream:
        """A stream that has the batch."""
        stream, first = self.streams[number], self.streams[0]
        if number not in self._with_batch and first.bound is not None:
            stream.bind(first.staged(first.bound).numpy())
            self._with_batch.add(number)
        return stream
