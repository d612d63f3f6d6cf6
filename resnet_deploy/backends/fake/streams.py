"""Streams, events and graphs of the fake device, by CUDA's rules for what is done when.

Work is done when somebody waits for it, and never before. A wait does what it has to and nothing beyond: the work of its own
stream up to where it waits, and of other streams what that depends on.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Work = Callable[[], None]
_STREAMS: weakref.WeakValueDictionary[int, Stream] = weakref.WeakValueDictionary()
_LOCK = threading.RLock()
_HERE = threading.local()  # the current stream is the thread's
blocking: list[Callable[[], bool]] = []  # where one of them says so, launches wait for their kernels


class Stream:
    """As torch.cuda.Stream. Streams do not wait for each other, nor for the default one, unless they are told to."""

    def __init__(self, device: Any = None, priority: int = 0, **_: Any) -> None:
        self._pending: deque[tuple[Work, Event | None]] = deque()
        self._graph: CUDAGraph | None = None
        self.cuda_stream = id(self)
        _STREAMS[self.cuda_stream] = self

    def start(self, work: Work, event: Event | None = None) -> None:
        """Put work on the stream; under capture into the graph."""
        if self._graph is not None:
            self._graph.work.append(work)
            return
        self._pending.append((work, event))
        if any(wanted() for wanted in blocking):
            self._run()

    def synchronize(self) -> None:
        """Wait until everything that was started is done."""
        self.check_no_capture()
        self._run()

    def query(self) -> bool:
        """Whether all is done. A device goes on while it is asked: each question does one piece of work."""
        if self._pending:
            self._step()
        return not self._pending

    def wait_event(self, event: Event) -> None:
        """What is started from here on happens after an event."""
        if self._graph is not None or (event.stream is not None and event.stream._graph is not None):
            raise RuntimeError("the fake device captures one stream at a time: an event cannot join two into one graph")
        self.start(event.reach)

    def wait_stream(self, other: Stream) -> None:
        """What is started from here on happens after what another stream has been given."""
        self.wait_event(other.record_event())

    def record_event(self, event: Event | None = None) -> Event:
        """An event behind what the stream has been given."""
        event = event or Event()
        event.record(self)
        return event

    def check_no_capture(self) -> None:
        """Raise CUDA's error where the stream is being captured: nobody may wait for it then."""
        if self._graph is not None:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    def _run(self, until: Event | None = None) -> None:
        with _LOCK:
            while self._pending and (until is None or not until.reached):
                self._step()

    def _step(self) -> None:
        with _LOCK:
            work, event = self._pending.popleft()
            work()
            if event is not None:
                event.arrive(work)


class Event:
    """As torch.cuda.Event: reached when the stream's work before it is done."""

    def __init__(self, enable_timing: bool = False, blocking: bool = False, **_: Any) -> None:
        self.timed = enable_timing
        self.stream: Stream | None = None
        self.time_s: float | None = None
        self._last: Work | None = None  # an event that is recorded again means its last record

    @property
    def reached(self) -> bool:
        return self._last is None

    def record(self, stream: Stream | None = None) -> None:
        """Behind what a stream has been given so far."""
        self.stream = stream or current_stream()

        def pass_by() -> None:
            """Nothing to be done: that it is done is what counts."""

        if self.stream._graph is None:
            self._last, self.time_s = pass_by, None
        self.stream.start(pass_by, self)

    def arrive(self, work: Work) -> None:
        """Called when a record of the event is reached."""
        if work is self._last:
            self._last, self.time_s = None, time.perf_counter()

    def reach(self) -> None:
        """Do what is before the event on its stream."""
        if not self.reached and self.stream is not None:
            self.stream._run(until=self)

    def synchronize(self) -> None:
        """Wait for the event."""
        if self.stream is not None:
            self.stream.check_no_capture()
        self.reach()

    def wait(self, stream: Stream | None = None) -> None:
        """Let a stream wait for the event."""
        (stream or current_stream()).wait_event(self)

    def query(self) -> bool:
        if not self.reached and self.stream is not None:
            self.stream.query()
        return self.reached

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds to another event. Raises RuntimeError where one is not timed or not reached."""
        if not (self.timed and end.timed):
            raise RuntimeError("Both events must be created with argument 'enable_timing=True'")
        if self.time_s is None or end.time_s is None:
            raise RuntimeError("CUDA error: device not ready")
        return (end.time_s - self.time_s) * 1e3


class CUDAGraph:
    """As torch.cuda.CUDAGraph: what a stream was given during a capture, done again by each replay."""

    def __init__(self, keep_graph: bool = False) -> None:
        self.work: list[Work] = []
        self._stream: Stream | None = None

    def capture_begin(self, pool: Any = None, **_: Any) -> None:
        self._stream = current_stream()
        if self._stream is default_stream():
            raise RuntimeError("CUDA graphs must be captured on a non-default stream")
        self._stream.check_no_capture()
        self._stream._graph = self

    def capture_end(self) -> None:
        if self._stream is None:
            raise RuntimeError("a capture ends that did not begin")
        self._stream._graph, self._stream = None, None

    def replay(self) -> None:
        """Start everything again on the current stream."""
        if not self.work:
            raise RuntimeError("called CUDAGraph::replay without a preceding successful capture")
        stream = current_stream()
        for work in self.work:
            stream.start(work)

    def pool(self) -> tuple[int, int]:
        return (0, id(self))

    def reset(self) -> None:
        self.work = []


_DEFAULT = Stream()


def default_stream(device: Any = None) -> Stream:
    """The stream that work goes to where none is chosen."""
    return _DEFAULT


def current_stream(device: Any = None) -> Stream:
    """The stream of this thread."""
    return getattr(_HERE, "stream", _DEFAULT)


def set_stream(stream: Stream) -> None:
    """Make a stream this thread's."""
    _HERE.stream = stream


@contextmanager
def use_stream(stream: Stream | None) -> Iterator[None]:
    """As torch.cuda.stream: what the block starts goes to a stream."""
    before = current_stream()
    set_stream(stream or before)
    try:
        yield
    finally:
        set_stream(before)


def stream_of(handle: int) -> Stream:
    """The stream of a handle, as native code is given it. Raises RuntimeError where there is none."""
    if handle not in _STREAMS:
        raise RuntimeError("CUDA error: invalid resource handle")
    return _STREAMS[handle]


def synchronize(device: Any = None) -> None:
    """Wait for every stream."""
    for stream in list(_STREAMS.values()):
        stream.synchronize()


def is_capturing() -> bool:
    """Whether the current stream is being captured."""
    return current_stream()._graph is not None
