"""Latency of several backends on the same batch: warmed up, interleaved, raw samples kept.

Candidates take turns in short slices, in an order that rotates every round, so that a machine that drifts
(clocks, neighbours) drifts under all of them alike. The first inference after each change of turn is not counted: the
thread pools of the previous candidate are still spinning down.
"""

from __future__ import annotations

import contextlib
import functools
import math
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from resnet_deploy.backends.base import Stages
from resnet_deploy.errors import UsageError
from resnet_deploy.timing.clock import ClockLooks
from resnet_deploy.timing.conditions import Conditions
from resnet_deploy.timing.join import end_to_end

NOISY_IQR = 0.10  # of the median
GPU_WARMUP_S = 0.5  # an idle GPU's clock rises in steps, and single inferences are over in milliseconds


class Measurable(Protocol):
    """The part of a backend that is timed."""

    def bind(self, images: NDArray[Any]) -> None: ...
    def enqueue(self) -> None: ...
    def synchronize(self) -> None: ...
    def infer(self, images: NDArray[Any]) -> Any: ...
    def stages(self) -> Stages | None: ...
    def annotate(self, name: str) -> AbstractContextManager[None]: ...
    def run_queued(self, seconds: float, *, uploads: bool, downloads: bool) -> tuple[int, float] | None: ...


Watch = Callable[[str], AbstractContextManager[Conditions]]  # of a candidate, by its name


@dataclass(frozen=True, kw_only=True)
class MeasureConfig:
    """How long to measure each candidate at each batch size.

    Attributes:
        duration_s: seconds of sampling, split over `rounds`, each half host to host and half device only; where the device
            has a clock of its own, a sixth for each of these and for its stages, and half for queries in a queue.
        rounds: in which the candidates take turns.
        min_samples: host to host, however long they take, and half as many of the other kinds.
        warmup_s: seconds after which a warm-up that does not become stable is given up, and said.
        uploads, downloads: whether queries in a queue copy their inputs to the device, and their answers back.
        sustained_s: seconds of queries in a queue without a pause, for each candidate on a GPU, after all rounds.
    """

    duration_s: float = 3.0
    rounds: int = 6
    min_samples: int = 12
    warmup_s: float = 5.0
    uploads: bool = False
    downloads: bool = False
    sustained_s: float | None = None

    def __post_init__(self) -> None:
        if self.duration_s <= 0 or self.rounds < 1 or self.min_samples < 1 or self.warmup_s < 0:
            raise UsageError("a measurement needs a duration above 0 and at least 1 round and 1 sample")


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Raw times of one inference each, in seconds, in the order in which they were taken."""

    values_s: tuple[float, ...]

    def percentile(self, percent: float) -> float:
        return float(np.percentile(self.values_s, percent))

    @property
    def p50(self) -> float:
        return self.percentile(50)

    @property
    def p90(self) -> float:
        return self.percentile(90)

    @property
    def p99(self) -> float:
        return self.percentile(99)

    @property
    def mean(self) -> float:
        return float(np.mean(self.values_s))

    @property
    def iqr(self) -> float:
        """Interquartile range, seconds."""
        return self.percentile(75) - self.percentile(25)

    @property
    def noisy(self) -> bool:
        """Whether the middle half spreads over more than a tenth of the median."""
        return self.iqr > NOISY_IQR * self.p50

    def to_dict(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in ("p50", "p90", "p99", "mean", "iqr")}


@dataclass(frozen=True, kw_only=True)
class Sustained:
    """Queries in a queue without a pause: a GPU that reaches its power limit lowers its clocks, which no short turn shows."""

    images_per_s: float
    duration_s: float
    conditions: Conditions | None

    def to_dict(self) -> dict[str, Any]:
        conditions = None if self.conditions is None else self.conditions.to_dict()
        return {"images_per_s": self.images_per_s, "duration_s": self.duration_s, "conditions": conditions}


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """One candidate at one batch size.

    Attributes:
        batch: images.
        host: seconds from images in host memory to answers in host memory.
        device: seconds of enqueue and synchronize alone, the batch being bound already.
        warmup_runs: inferences before the first sample.
        warm: whether the warm-up became stable.
        stages: of single queries, by the device's clock; empty where the device is the host.
        queued: images a second of each round in which queries were queued; likewise.
        conditions: of the machine in all rounds; None where nobody watched.
        energy_per_image_j: joules, of the queued queries.
        sustained: of queries without a pause; None where it was not asked for, or where the device is the host.
    """

    batch: int
    host: Samples
    device: Samples
    warmup_runs: int
    warm: bool
    stages: tuple[Stages, ...] = ()
    queued: tuple[float, ...] = ()
    conditions: Conditions | None = None
    energy_per_image_j: float | None = None
    sustained: Sustained | None = None

    @property
    def images_per_s(self) -> float:
        """One stream, one batch at a time, host to host: batch over the median latency."""
        return self.batch / self.host.p50

    @property
    def queued_images_per_s(self) -> float | None:
        """The median of the turns."""
        return float(np.median(self.queued)) if self.queued else None

    def stage(self, name: str) -> Samples | None:
        """Samples of a field or property of Stages."""
        return Samples(values_s=tuple(getattr(stage, name) for stage in self.stages)) if self.stages else None


@dataclass
class _Run:
    name: str
    backend: Measurable
    images: NDArray[Any]
    watch: Watch | None
    warmup_runs: int = 0
    warm: bool = False
    staged: bool = False
    host: list[float] = field(default_factory=list)
    device: list[float] = field(default_factory=list)
    stages: list[Stages] = field(default_factory=list)
    queued: list[float] = field(default_factory=list)
    queued_images: int = 0
    seen: list[Conditions] = field(default_factory=list)
    seen_queued: list[Conditions] = field(default_factory=list)
    sustained: Sustained | None = None

    @contextlib.contextmanager
    def watched(self, *kept: list[Conditions]) -> Any:
        """Watch the machine, where somebody does, and keep what was seen where it ended."""
        if self.watch is None:
            yield
            return
        with self.watch(self.name) as seen:
            yield
        for each in kept:
            each.append(seen)

    def part(self, name: str) -> AbstractContextManager[None]:
        """Name a part of the measurement for a profiler of the device."""
        return self.backend.annotate(f"{self.name} batch {len(self.images)}: {name}")

    def measurement(self) -> Measurement:
        energy = end_to_end(self.seen_queued).energy_per_image_j(self.queued_images) if self.seen_queued else None
        return Measurement(
            batch=len(self.images), host=Samples(values_s=tuple(self.host)), device=Samples(values_s=tuple(self.device)),
            warmup_runs=self.warmup_runs, warm=self.warm, stages=tuple(self.stages), queued=tuple(self.queued),
            conditions=end_to_end(self.seen) if self.seen else None, energy_per_image_j=energy,
            sustained=self.sustained,
        )  # fmt: skip


class Interrupted(KeyboardInterrupt):
    """Ctrl-C during a measurement. partial: of the candidates that had a whole turn."""

    def __init__(self, partial: dict[str, Measurement]) -> None:
        super().__init__()
        self.partial = partial


def measure(
    backends: Mapping[str, Measurable],
    images: Mapping[str, NDArray[Any]],
    config: MeasureConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
    *,
    watch: Watch | None = None,
    failed: dict[str, Exception] | None = None,
    clock: Callable[[], float | None] | None = None,
    at: Callable[[str], AbstractContextManager[None]] | None = None,
) -> dict[str, Measurement]:
    """Measure backends, interleaved: in each round all of them take their turn, so that a drifting machine drifts under all.

    Args:
        backends: by name.
        images: a batch for each, (N, ...) as the model takes it.
        config: how long.
        progress: told rounds done and rounds in all.
        watch: watches the machine during each turn.
        failed: takes the errors of backends that die, and the others go on; without it, such an error is raised.
        clock: a GPU's, in Hz: the warm-up lasts until it stands.
        at: a context for whatever the backend of that name does.

    Returns:
        What was measured, by name.

    Raises:
        Interrupted: Ctrl-C; it carries what was measured by then.
    """
    config = config or MeasureConfig()
    runs = {name: _Run(name, backend, images[name], watch) for name, backend in backends.items()}
    names = list(runs)

    def attempt(name: str, what: str, part: Callable[[_Run, MeasureConfig], None]) -> None:
        if name not in runs:
            return
        try:
            with contextlib.nullcontext() if at is None else at(name), runs[name].part(what):
                part(runs[name], config)
        except Exception as exc:
            if failed is None:
                raise
            failed[name] = exc
            del runs[name]

    try:
        for name in names:
            attempt(name, "warm-up", functools.partial(_warm_up, clock=clock))
        for turn in range(config.rounds):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                attempt(name, f"round {turn + 1}", _take_turn)
            if progress is not None:
                progress(turn + 1, config.rounds)
        for name in names if config.sustained_s is not None else ():
            attempt(name, "sustained", _sustain)
    except KeyboardInterrupt:
        raise Interrupted({name: run.measurement() for name, run in runs.items() if run.host and run.device}) from None
    return {name: run.measurement() for name, run in runs.items()}


def _warm_up(run: _Run, config: MeasureConfig, clock: Callable[[], float | None] | None = None) -> None:
    """Until the median of the last three runs is within 5 % of the three before, on a GPU also for half a second and until its
    clock stands; or the time is up."""
    times = [_host(run.backend, run.images)]
    run.staged = run.backend.stages() is not None
    looks = ClockLooks(clock) if run.staged and clock is not None else None
    start = time.perf_counter()
    while not run.warm and (len(times) < 2 or time.perf_counter() - start < config.warmup_s):
        times.append(_host(run.backend, run.images))
        stands = looks is None or looks.stand()
        if len(times) >= 6 and (not run.staged or time.perf_counter() - start >= GPU_WARMUP_S):
            last, before = np.median(times[-3:]), np.median(times[-6:-3])
            run.warm = stands and bool(abs(last - before) <= 0.05 * before)
    run.warmup_runs = len(times)


def _sustain(run: _Run, config: MeasureConfig) -> None:
    """Queries without a pause, for as long as was asked for."""
    if not run.staged or config.sustained_s is None:
        return
    run.backend.bind(run.images)
    seen: list[Conditions] = []
    with run.watched(seen):
        queued = run.backend.run_queued(config.sustained_s, uploads=config.uploads, downloads=config.downloads)
    if queued is not None:
        run.sustained = Sustained(
            images_per_s=queued[0] * len(run.images) / queued[1], duration_s=queued[1], conditions=seen[0] if seen else None
        )


def _take_turn(run: _Run, config: MeasureConfig) -> None:
    """Samples of every kind; what is left of a turn that does not end is not kept."""
    backend, images = run.backend, run.images
    budget = config.duration_s / config.rounds / (6 if run.staged else 2)
    least = math.ceil(config.min_samples / config.rounds)
    with run.watched(run.seen):
        _host(backend, images)  # settles; not counted
        with run.part("host to host"):
            host = _fill(lambda: _host(backend, images), budget, least)
        backend.bind(images)
        with run.part("device"):
            device = _fill(lambda: _device(backend), budget, math.ceil(least / 2))
        with run.part("stages"):
            stages = _fill(backend.stages, budget, math.ceil(least / 2)) if run.staged else []
    if run.staged:
        with run.watched(run.seen, run.seen_queued), run.part("queued"):
            queued = backend.run_queued(3 * budget, uploads=config.uploads, downloads=config.downloads)
        if queued is not None:
            run.queued.append(queued[0] * len(images) / queued[1])
            run.queued_images += queued[0] * len(images)
    run.host += host
    run.device += device
    run.stages += [stage for stage in stages if stage is not None]


def _fill(sample: Callable[[], Any], budget_s: float, least: int) -> list[Any]:
    samples: list[Any] = []
    end = time.perf_counter() + budget_s
    while len(samples) < least or time.perf_counter() < end:
        samples.append(sample())
    return samples


def _host(backend: Measurable, images: NDArray[Any]) -> float:
    start = time.perf_counter()
    backend.infer(images)
    return time.perf_counter() - start


def _device(backend: Measurable) -> float:
    start = time.perf_counter()
    backend.enqueue()
    backend.synchronize()
    return time.perf_counter() - start
