"""Streams of a device with a batch on each: what every backend on a GPU shares.

A query has three parts, as trtexec has them: its input to the device (H2D), the inference, its answers back (D2H). Each is
started on the lane's stream and not waited for, so that they can be timed by the device's own clock, and queued.
"""

from __future__ import annotations

import abc
import itertools
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from resnet_deploy.backends.base import Outputs, Stages
from resnet_deploy.backends.cuda import CudaDevice, dtype_name, to_numpy
from resnet_deploy.errors import UsageError

SHAPES = 4  # batch sizes whose buffers and graph are kept on each lane
AHEAD = 1  # queries that wait behind the one that runs, as in trtexec


@dataclass
class Bound:
    """One batch size on one lane: its buffers, and its graph once there is one. context: the backend's own."""

    input: Any
    staging: Any
    outputs: dict[str, Any] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)
    context: Any = None
    replay: Callable[[], None] | None = None
    ran: bool = False


class Lane(abc.ABC):
    """A stream with one bound batch. captures: whether an inference becomes a CUDA graph, after `settling` runs: the first
    ones of a shape may still allocate and choose."""

    settling = 1

    def __init__(self, device: CudaDevice, *, captures: bool) -> None:
        self.device, self.stream, self._captures = device, device.stream(), captures
        self._shapes: OrderedDict[int, Bound] = OrderedDict()
        self.bound: Bound | None = None

    @abc.abstractmethod
    def make(self, batch: int) -> Bound:
        """Buffers of a batch size."""

    @abc.abstractmethod
    def execute(self, bound: Bound) -> None:
        """Start an inference on the stream."""

    def bind(self, images: NDArray[Any]) -> None:
        self.stream.synchronize()  # the staging memory may still be read
        batch = len(images)
        if batch not in self._shapes:
            if len(self._shapes) == SHAPES:
                self._shapes.popitem(last=False)
            self._shapes[batch] = self.make(batch)
        self._shapes.move_to_end(batch)
        self.bound = self._shapes[batch]
        self.bound.ran = False
        self.bound.staging.numpy()[...] = images
        self.upload()

    def upload(self) -> None:
        """Start the copy of the batch to the device."""
        bound = self._given()
        self.device.copy(bound.input, bound.staging, self.stream)

    def enqueue(self) -> None:
        """Start an inference."""
        bound = self._given()
        bound.ran = True
        if bound.replay is not None:
            bound.replay()
            return
        self.execute(bound)
        if self._captures:
            for _ in range(self.settling - 1):
                self.execute(bound)
            self.stream.synchronize()
            bound.replay = self.device.capture(lambda: self.execute(bound), self.stream)

    def download(self) -> None:
        """Start the copy of the answers to the host."""
        bound = self._given()

        def copy() -> None:
            for name, tensor in bound.outputs.items():
                if name not in bound.answers:
                    bound.answers[name] = self.device.pinned(tuple(tensor.shape), dtype_name(tensor))
                bound.answers[name].copy_(tensor, non_blocking=True)

        self.device.run(copy, self.stream)

    def fetch(self) -> Outputs:
        if self.bound is None or not self.bound.ran:
            raise UsageError("there is no answer yet: call enqueue after bind")
        self.download()
        self.stream.synchronize()
        return {name: to_numpy(tensor) for name, tensor in self.bound.answers.items()}

    def close(self) -> None:
        self.stream.synchronize()
        self.bound = None
        self._shapes.clear()

    def _given(self) -> Bound:
        if self.bound is None:
            raise UsageError("there is no batch yet: call bind first")
        return self.bound


class Lanes:
    """Lanes that take turns: each inference goes to the next one, and the answers are the last one's. A lane is given the
    batch when its turn comes, so that one inference of many lanes costs one copy."""

    def __init__(self, device: CudaDevice, lanes: Sequence[Lane]) -> None:
        self.device, self.lanes = device, list(lanes)
        self._turn = self._last = 0
        self._given: set[int] = set()

    def __len__(self) -> int:
        return len(self.lanes)

    def bind(self, images: NDArray[Any]) -> None:
        self.lanes[0].bind(images)
        self._given, self._turn, self._last = {0}, 0, 0

    def enqueue(self) -> None:
        self._lane(self._turn).enqueue()
        self._last, self._turn = self._turn, (self._turn + 1) % len(self.lanes)

    def synchronize(self, *, spin: bool = True) -> None:
        for lane in self.lanes:
            self.device.wait(lane.stream, spin=spin)

    def outputs(self) -> Outputs:
        return self.lanes[self._last].fetch()

    def stages(self) -> Stages:
        """One query of the bound batch on the first lane, by the device's clock. Another one is ahead of it, so that the
        device does not wait for the host between what is timed."""
        lane, device = self.lanes[0], self.device
        lane.enqueue()
        marks = [device.mark(lane.stream, timed=True)]
        lane.upload()
        marks.append(device.mark(lane.stream, timed=True))
        start = time.perf_counter()
        lane.enqueue()
        enqueue_s = time.perf_counter() - start
        marks.append(device.mark(lane.stream, timed=True))
        lane.download()
        marks.append(device.mark(lane.stream, timed=True))
        lane.stream.synchronize()
        h2d_s, compute_s, d2h_s = (device.seconds(begin, end) for begin, end in itertools.pairwise(marks))
        return Stages(enqueue_s=enqueue_s, h2d_s=h2d_s, compute_s=compute_s, d2h_s=d2h_s)

    def run_queued(self, seconds: float, *, uploads: bool, downloads: bool, spin: bool = True) -> tuple[int, float]:
        """As many queries of the bound batch as can be begun in some seconds, AHEAD of them waiting on each lane; returns how
        many, and the seconds until the last has ended."""
        waiting: dict[int, deque[Any]] = {number: deque() for number in range(len(self.lanes))}
        for number in waiting:
            self._lane(number).enqueue()  # a first one may still allocate, or capture
        self.synchronize()
        done, start = 0, time.perf_counter()
        for number in itertools.cycle(waiting):
            if done >= len(self.lanes) and time.perf_counter() - start >= seconds:
                break
            lane, marks = self.lanes[number], waiting[number]
            if len(marks) > AHEAD:
                marks.popleft().synchronize()
            if uploads:
                lane.upload()
            lane.enqueue()
            if downloads:
                lane.download()
            marks.append(self.device.mark(lane.stream, spin=spin))
            done += 1
        self.synchronize(spin=spin)
        return done, time.perf_counter() - start

    def close(self) -> None:
        for lane in self.lanes:
            lane.close()
        self.lanes = []

    def _lane(self, number: int) -> Lane:
        """A lane that has the batch."""
        lane, first = self.lanes[number], self.lanes[0]
        if number not in self._given and first.bound is not None:
            lane.bind(first.bound.staging.numpy())
            self._given.add(number)
        return lane
