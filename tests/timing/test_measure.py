"""Measurement with backends of known latency: what is inside a figure, and what is not."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest

from resnet_deploy.backends.base import Stages
from resnet_deploy.errors import UsageError
from resnet_deploy.timing.conditions import watch_with
from resnet_deploy.timing.measure import MeasureConfig, Samples, measure
from tests.helpers.fakes import FakeBackend

IMAGES = np.ones((2, 4), np.float32)
SHORT = MeasureConfig(duration_s=0.12, rounds=3, min_samples=6, warmup_s=0.5)


def test_copies_are_in_the_host_figure_and_not_in_the_device_figure() -> None:
    found = measure({"a": FakeBackend(bind_s=0.004, run_s=0.002)}, {"a": IMAGES}, SHORT)["a"]
    assert found.host.p50 >= 0.006
    assert 0.002 <= found.device.p50 < 0.006
    assert found.images_per_s == pytest.approx(2 / found.host.p50)
    assert len(found.host.values_s) >= 6 and len(found.device.values_s) >= 6


def test_slow_first_runs_are_warmed_away() -> None:
    backend = FakeBackend(run_s=0.001, slow_first=4)
    found = measure({"a": backend}, {"a": IMAGES}, SHORT)["a"]
    assert found.warmup_runs > 4
    assert max(found.host.values_s) < 0.010, "a cold run of 10 ms was counted"


def test_a_warm_up_that_never_settles_is_given_up_and_said() -> None:
    class Drifting(FakeBackend):
        def enqueue(self) -> None:
            self._run_s += 0.001
            super().enqueue()

    config = MeasureConfig(duration_s=0.01, rounds=1, min_samples=1, warmup_s=0.05)
    assert not measure({"a": Drifting(run_s=0.001)}, {"a": IMAGES}, config)["a"].warm


def test_candidates_take_turns_and_the_first_run_of_a_turn_is_not_counted() -> None:
    log: list[str] = []

    class Logged(FakeBackend):
        def __init__(self, name: str) -> None:
            super().__init__(run_s=0.001)
            self.name = name

        def infer(self, images: np.ndarray) -> object:
            log.append(self.name)
            return super().infer(images)

    config = MeasureConfig(duration_s=0.01, rounds=4, min_samples=4, warmup_s=0)
    found = measure({name: Logged(name) for name in "ab"}, dict.fromkeys("ab", IMAGES), config)
    turns = "".join(log)[4:]  # after two warm-up runs each
    changes = [name for i, name in enumerate(turns) if i == 0 or turns[i - 1] != name]
    # Rotated every round: ab ba ab ba, so that neither is always first.
    assert "".join(changes) == "ababa"
    counted = sum(len(found[name].host.values_s) for name in "ab")
    assert counted == len(turns) - 8, "one settling run for each of 8 turns"


def test_progress_counts_the_rounds() -> None:
    seen: list[tuple[int, int]] = []
    measure({"a": FakeBackend()}, {"a": IMAGES}, SHORT, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_statistics_come_from_the_raw_samples() -> None:
    samples = Samples(values_s=tuple(float(value) for value in range(1, 101)))
    assert samples.p50 == 50.5 and samples.mean == 50.5
    assert samples.p90 == pytest.approx(90.1) and samples.p99 == pytest.approx(99.01)
    assert samples.iqr == pytest.approx(49.5) and samples.noisy
    assert not Samples(values_s=(1.0, 1.01, 1.02, 0.99)).noisy


@pytest.mark.parametrize("bad", [{"duration_s": 0}, {"rounds": 0}, {"min_samples": 0}, {"warmup_s": -1}])
def test_a_measurement_needs_something_to_measure(bad: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        MeasureConfig(**bad)  # type: ignore[arg-type]


class Gpu(FakeBackend):
    """A backend with a clock of its own."""

    def stages(self) -> Stages:
        return Stages(enqueue_s=1e-6, h2d_s=1e-6, compute_s=1e-6, d2h_s=1e-6)

    def run_queued(self, seconds: float, *, uploads: bool = False, downloads: bool = False) -> tuple[int, float]:
        self.calls.append(f"queued {seconds:g}")
        return 10, seconds


def test_a_gpu_is_warmed_up_for_half_a_second_and_until_its_clock_stands() -> None:
    config = MeasureConfig(duration_s=1e-3, rounds=1, min_samples=1, warmup_s=2.0)
    rising = iter([300e6, 600e6, 1200e6, 1500e6, 1900e6, 1980e6, 1981e6])
    clocks = {0.5: lambda: None, 0.65: lambda: next(rising, 1980e6)}  # one that is not told, and one that stands after a while
    for least_s, clock in clocks.items():
        start = time.perf_counter()
        found = measure({"gpu": Gpu(run_s=0.002)}, {"gpu": IMAGES}, config, clock=clock)
        assert least_s <= time.perf_counter() - start < 2 and found["gpu"].warm
    start = time.perf_counter()
    measure({"cpu": FakeBackend(run_s=0.002)}, {"cpu": IMAGES}, config)
    assert time.perf_counter() - start < 0.4, "a CPU needs none of it"


def test_a_clock_that_never_stands_is_said() -> None:
    config = MeasureConfig(duration_s=1e-3, rounds=1, min_samples=1, warmup_s=0.7)
    clocks = itertools.cycle([1e9, 2e9])
    assert not measure({"gpu": Gpu(run_s=0.002)}, {"gpu": IMAGES}, config, clock=lambda: next(clocks))["gpu"].warm


def test_sustained_is_a_figure_of_its_own() -> None:
    gpu, cpu = Gpu(), FakeBackend()
    config = MeasureConfig(duration_s=1e-3, rounds=2, min_samples=1, warmup_s=0, sustained_s=7.0)
    backends = {"gpu": gpu, "cpu": cpu}
    found = measure(backends, dict.fromkeys(backends, IMAGES), config, watch=lambda name: watch_with(None))
    sustained = found["gpu"].sustained
    assert sustained is not None and sustained.images_per_s == 10 * len(IMAGES) / 7 and sustained.conditions is not None
    assert gpu.calls[-1] == "queued 7" and found["cpu"].sustained is None and len(found["gpu"].queued) == 2
    assert sustained.conditions.samples[0].time_s > found["gpu"].conditions.samples[-1].time_s  # type: ignore[union-attr]
