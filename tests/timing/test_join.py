"""Turns end to end: what happened between them is nobody's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from resnet_deploy.timing.conditions import Conditions, CpuCounters, Sample
from resnet_deploy.timing.join import end_to_end
from tests.helpers.fake_nvml import gpu_state


def turn(
    begin_s: float, seconds: float, *, own_s: float = 1.0, energy_j: float | None = 0.0, watts: float = 100.0
) -> Conditions:
    """A turn of so many seconds on a machine whose counters go on between turns."""
    before = CpuCounters(busy_s=10 * begin_s, stolen_s=begin_s, own_s=own_s * begin_s, load_1min=begin_s, threads=3)
    after = CpuCounters(
        busy_s=10 * begin_s + 1.5 * seconds, stolen_s=begin_s + 0.1 * seconds, own_s=own_s * begin_s + seconds,
        load_1min=begin_s + seconds, threads=4,
    )  # fmt: skip
    energies = [None if energy_j is None else energy_j + watts * seconds * part for part in (0, 0.5, 1)]
    samples = [
        Sample(time_s=begin_s + seconds * part, cpu_clock_hz=None, gpu=gpu_state(energy_j=energy))
        for part, energy in zip((0, 0.5, 1), energies, strict=True)
    ]
    return Conditions(cores=4, governor=None, gpu=None, before=before, after=after, samples=samples, watching_s=0.01)


def test_times_counters_and_energy_add_up() -> None:
    """Two turns of 0.8 s, with 100 s of another candidate between them that took 50 kJ."""
    whole = end_to_end([turn(5.0, 0.8, energy_j=1000.0), turn(105.8, 0.8, energy_j=51_080.0)])
    assert whole.duration_s == pytest.approx(1.6) and len(whole.samples) == 6
    assert whole.own_cores == pytest.approx(1.0) and whole.other_cores == pytest.approx(0.5)
    assert whole.stolen_cores == pytest.approx(0.1)
    assert whole.energy_j == pytest.approx(160.0) and whole.energy_per_image_j(320) == pytest.approx(0.5)
    assert whole.watching_s == pytest.approx(0.02)
    assert (whole.before.load_1min, whole.after and whole.after.load_1min) == (5.0, pytest.approx(106.6))
    assert [sample.time_s for sample in whole.samples] == pytest.approx([5.0, 5.4, 5.8, 5.8, 6.2, 6.6])


def test_one_turn_is_itself_and_what_is_missing_stays_missing() -> None:
    one = turn(3.0, 2.0)
    assert end_to_end([one]).to_dict() == one.to_dict()
    untold = [turn(1.0, 1.0, energy_j=None), turn(9.0, 1.0, energy_j=None)]
    assert end_to_end(untold).energy_j is None
    uncounted = replace(untold[1], before=replace(untold[1].before, busy_s=None))
    assert end_to_end([untold[0], uncounted]).other_cores is None
    assert end_to_end(untold).own_cores is not None


def test_the_worst_of_a_turn_is_seen() -> None:
    hot = turn(9.0, 1.0)
    hot.samples[1] = replace(hot.samples[1], gpu=gpu_state(throttled=("power cap",)))
    hot.other_gpu_processes = 2
    whole = end_to_end([turn(1.0, 1.0), hot])
    assert whole.throttled == {"power cap": 1 / 6} and whole.other_gpu_processes == 2
    assert turn(1.0, 1.0).throttled == {}, "the parts are left as they are"
