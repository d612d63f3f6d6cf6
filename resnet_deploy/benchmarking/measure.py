"""Latency of several backends on the same batch: warmed up, interleaved, raw samples kept.

Numpy alone. Candidates take turns in short slices, in an order that rotates every round, so that a machine that drifts
(clocks, neighbours) drifts under all of them alike. The first inference after each change of turn is not counted: the
thread pools of the previous candidate are still spinning down.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from resnet_deploy.errors import UsageError

NOISY_IQR = 0.10  # of the median


class Measurable(Protocol):
    """The part of a backend that is timed."""

    def bind(self, images: NDArray[Any]) -> None: ...
    def enqueue(self) -> None: ...
    def synchronize(self) -> None: ...
    def infer(self, images: NDArray[Any]) -> Any: ...


@dataclass(frozen=True, kw_only=True)
class MeasureConfig:
    """How long to measure each candidate at each batch size.

    duration_s: of sampling, split over `rounds` turns, each half host to host and half device only. min_samples: of
    each kind, however long they take. warmup_s: after this long, an unstable warm-up is given up, and said.
    """

    duration_s: float = 3.0
    rounds: int = 6
    min_samples: int = 12
    warmup_s: float = 5.0

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
class Measurement:
    """One candidate at one batch size.

    host: host to host, images in host memory → answers in host memory. device: enqueue and synchronize alone, the batch
    being bound already. warm: whether the warm-up became stable.
    """

    batch: int
    host: Samples
    device: Samples
    warmup_runs: int
    warm: bool

    @property
    def images_per_s(self) -> float:
        """One stream, one batch at a time, host to host: batch over the median latency."""
        return self.batch / self.host.p50


@dataclass
class _Run:
    backend: Measurable
    warmup_runs: int = 0
    warm: bool = False
    host: list[float] = field(default_factory=list)
    device: list[float] = field(default_factory=list)


def measure(
    backends: Mapping[str, Measurable],
    images: Mapping[str, NDArray[Any]],
    config: MeasureConfig | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Measurement]:
    """Measure backends by name, interleaved, each on its batch of images, (N, ...).

    progress: told rounds done and rounds in all. Raises whatever a backend raises.
    """
    config = config or MeasureConfig()
    runs = {name: _Run(backend) for name, backend in backends.items()}
    for name, run in runs.items():
        _warm_up(run, images[name], config)
    names = list(runs)
    for turn in range(config.rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            _take_turn(runs[name], images[name], config)
        if progress is not None:
            progress(turn + 1, config.rounds)
    return {
        name: Measurement(
            batch=len(images[name]), host=Samples(values_s=tuple(run.host)), device=Samples(values_s=tuple(run.device)),
            warmup_runs=run.warmup_runs, warm=run.warm,
        )
        for name, run in runs.items()
    }  # fmt: skip


def _warm_up(run: _Run, images: NDArray[Any], config: MeasureConfig) -> None:
    """Until the median of the last three runs is within 5 % of the three before, or the time is up."""
    times: list[float] = []
    start = time.perf_counter()
    while not run.warm and (len(times) < 2 or time.perf_counter() - start < config.warmup_s):
        times.append(_host(run.backend, images))
        if len(times) >= 6:
            last, before = np.median(times[-3:]), np.median(times[-6:-3])
            run.warm = bool(abs(last - before) <= 0.05 * before)
    run.warmup_runs = len(times)


def _take_turn(run: _Run, images: NDArray[Any], config: MeasureConfig) -> None:
    budget = config.duration_s / config.rounds / 2
    least = math.ceil(config.min_samples / config.rounds)
    _host(run.backend, images)  # settles; not counted
    _fill(run.host, lambda: _host(run.backend, images), budget, least)
    run.backend.bind(images)
    _fill(run.device, lambda: _device(run.backend), budget, least)


def _fill(samples: list[float], sample: Callable[[], float], budget_s: float, least: int) -> None:
    end, taken = time.perf_counter() + budget_s, 0
    while taken < least or time.perf_counter() < end:
        samples.append(sample())
        taken += 1


def _host(backend: Measurable, images: NDArray[Any]) -> float:
    start = time.perf_counter()
    backend.infer(images)
    return time.perf_counter() - start


def _device(backend: Measurable) -> float:
    start = time.perf_counter()
    backend.enqueue()
    backend.synchronize()
    return time.perf_counter() - start
