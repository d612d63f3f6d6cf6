"""What is seen of the machine: the CPU for real, the GPU through a fake NVML with the real one's names."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from resnet_deploy.timing import conditions as conditions
from resnet_deploy.timing.conditions import Conditions, CpuCounters, Sample, watch
from resnet_deploy.timing.nvml import THROTTLES, Gpu, GpuInfo, GpuState
from tests.helpers.fake_nvml import MHZ, FakeNvml, gpu_state


def seen_by(*states: GpuState, seconds: float = 2.0, slowdown_c: float | None = 90, **changes: Any) -> Conditions:
    """Conditions of so many seconds on 4 cores, one of them ours, with these looks at the GPU."""
    step = seconds / max(1, len(states) - 1)
    samples = [Sample(time_s=100 + i * step, cpu_clock_hz=None, gpu=state) for i, state in enumerate(states)]
    counters = CpuCounters(busy_s=50.0, stolen_s=1.0, own_s=7.0, load_1min=0.5, threads=3)
    info = GpuInfo(name="NVIDIA H200", sm_clock_max_hz=1980 * MHZ, power_limit_w=700.0, slowdown_c=slowdown_c)
    used = {"busy_s": 50.0 + seconds, "stolen_s": 1.0, "own_s": 7.0 + seconds} | changes.pop("used", {})
    return Conditions(
        cores=4, governor=changes.pop("governor", "performance"), gpu=info, before=counters, after=replace(counters, **used),
        samples=samples, **changes,
    )  # fmt: skip


def test_a_quiet_machine_has_no_warning() -> None:
    seen = seen_by(gpu_state(), gpu_state(energy_j=300.0), gpu_state(energy_j=900.0))
    assert seen.warnings == []
    assert (seen.duration_s, seen.own_cores, seen.other_cores, seen.stolen_cores) == (2.0, 1.0, 0.0, 0.0)
    assert seen.energy_j == 900.0 and seen.energy_per_image_j(1800) == 0.5


@pytest.mark.parametrize(
    ("quiet", "loud", "words"),
    [
        # Two seconds on one core of our own; the limits, and just above them.
        (seen_by(gpu_state(), gpu_state(), used={"busy_s": 52.4}), seen_by(gpu_state(), gpu_state(), used={"busy_s": 52.42}),
         "other processes used 0.2 of 4 cores"),
        (seen_by(gpu_state(), gpu_state(), used={"stolen_s": 1.09}), seen_by(gpu_state(), gpu_state(), used={"stolen_s": 1.12}),
         "hypervisor took 0.06"),
        (seen_by(gpu_state(), gpu_state(temperature_c=84)), seen_by(gpu_state(), gpu_state(temperature_c=85)), "85 °C"),
        (seen_by(gpu_state(), gpu_state(temperature_c=84), slowdown_c=None),
         seen_by(gpu_state(), gpu_state(temperature_c=85), slowdown_c=None), "85 °C"),
        (seen_by(gpu_state(), gpu_state(sm_clock_hz=1882 * MHZ)), seen_by(gpu_state(), gpu_state(sm_clock_hz=1860 * MHZ)),
         "clock dropped by 6%"),
        (seen_by(gpu_state(), gpu_state(sm_clock_hz=345 * MHZ, utilization_percent=49.0)),
         seen_by(gpu_state(), gpu_state(sm_clock_hz=345 * MHZ, utilization_percent=50.0)), "clock dropped by 83%"),
        (seen_by(gpu_state(), gpu_state()), seen_by(gpu_state(), gpu_state(throttled=("power cap",))),
         "power cap in 50% of the samples"),
        (seen_by(gpu_state()), seen_by(gpu_state(), other_gpu_processes=1), "other processes use the GPU (1)"),
        (seen_by(gpu_state(), governor="schedutil"), seen_by(gpu_state(), governor="powersave"), "powersave"),
    ],
)  # fmt: skip
def test_each_warning_begins_at_its_limit(quiet: Conditions, loud: Conditions, words: str) -> None:
    assert quiet.warnings == []
    assert len(loud.warnings) == 1 and words in loud.warnings[0]


def test_before_and_after_are_not_during() -> None:
    seen = seen_by(*(gpu_state(temperature_c=degrees) for degrees in (30, 60, 62, 70, 50))).to_dict()["gpu"]
    assert seen["during"]["temperature_c"] == {"min": 60, "median": 62, "max": 70}
    assert (seen["before"]["temperature_c"], seen["after"]["temperature_c"]) == (30, 50)
    assert seen_by(gpu_state(), gpu_state()).to_dict()["gpu"]["during"]["power_w"] is None


def test_short_times_are_not_judged() -> None:
    short = seen_by(gpu_state(), gpu_state(energy_j=50.0), seconds=0.4, used={"busy_s": 60.0})
    assert short.other_cores is None and short.energy_j is None and short.warnings == []
    assert seen_by(gpu_state(), gpu_state(energy_j=50.0), seconds=1.0).energy_j == 50.0
    assert seen_by(gpu_state(), gpu_state(energy_j=None)).energy_per_image_j(10) is None
    assert seen_by(gpu_state(), gpu_state(energy_j=5.0)).energy_per_image_j(0) is None


def test_the_gpu_is_watched_before_during_and_after() -> None:
    nvml = FakeNvml()
    with watch(nvml=nvml, interval_s=0.02) as seen:
        assert seen.gpu == GpuInfo(name="NVIDIA H200", sm_clock_max_hz=1980 * MHZ, power_limit_w=700.0, slowdown_c=90)
        before = len(seen.samples)
        time.sleep(0.2)
        nvml.reasons, nvml.temperature, nvml.clock, nvml.pids = 0x41, 88, 1500, (os.getpid(), 1)
        time.sleep(0.2)
        nvml.reasons, nvml.pids = 0, (os.getpid(),)
    assert nvml.opened == 0, "NVML is let go"
    found = seen.to_dict()
    assert before == 1 and found["samples"] >= 6
    assert found["gpu"]["before"]["temperature_c"] == 60 and found["gpu"]["after"]["temperature_c"] == 88
    assert found["gpu"]["during"]["sm_clock_hz"] == {"min": 1500 * MHZ, "median": pytest.approx(1740 * MHZ, abs=241 * MHZ),
                                                     "max": 1980 * MHZ}  # fmt: skip
    assert found["gpu"]["before"]["power_w"] == pytest.approx(450.5)
    assert found["gpu"]["during"]["memory_used_bytes"]["max"] == 2 * 2**30
    assert set(found["gpu"]["throttled"]) == {"hardware thermal slowdown"}, "an idle GPU is not a throttled one"
    assert found["gpu"]["other_processes"] == 1
    assert len(found["warnings"]) == 4, found["warnings"]


def test_energy_is_the_difference_of_the_counter() -> None:
    nvml = FakeNvml()
    with watch(nvml=nvml, interval_s=0.3) as seen:
        time.sleep(1.05)
    assert seen.energy_j == pytest.approx(100.0 * (len(seen.samples) - 1))  # the fake adds 100 J a look


@pytest.mark.parametrize(
    "missing", [name for name in dir(FakeNvml) if name.startswith("nvmlDeviceGet") and "Handle" not in name]
)
def test_what_a_gpu_does_not_tell_is_none_and_no_error(missing: str) -> None:
    gpu = Gpu.open(nvml=FakeNvml(missing=(missing,), reasons=4))
    assert gpu is not None
    state, whole = gpu.read(), Gpu.open(nvml=FakeNvml(reasons=4))
    assert whole is not None
    unknown = [value for value in (*vars(state).values(), *vars(gpu.info).values()) if value in (None, (), "None")]
    assert gpu.other_processes() == 0
    assert len(unknown) == {"nvmlDeviceGetComputeRunningProcesses": 0, "nvmlDeviceGetClockInfo": 2}.get(missing, 1)
    assert None not in vars(whole.read()).values()


def test_the_older_name_of_the_reasons_is_used_where_there_is_no_newer() -> None:
    nvml = FakeNvml(missing=("nvmlDeviceGetCurrentClocksEventReasons",))
    nvml.nvmlDeviceGetCurrentClocksThrottleReasons = lambda handle: 0x24  # type: ignore[attr-defined]
    gpu = Gpu.open(nvml=nvml)
    assert gpu is not None and gpu.read().throttled == ("power cap", "software thermal slowdown")


@pytest.mark.parametrize(
    ("visible", "asked"), [(None, 0), ("1,0", 1), ("GPU-5f3c,GPU-1", "GPU-5f3c"), ("", ""), ("-1", "-1"), ("7", 7)]
)
def test_the_gpu_is_the_first_visible_one(monkeypatch: pytest.MonkeyPatch, visible: str | None, asked: int | str) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    nvml = FakeNvml()
    gpu = Gpu.open(nvml=nvml)
    assert nvml.asked == [asked]
    there = asked in (0, 1, "GPU-5f3c")
    assert (gpu is not None) == there and nvml.opened == there


def test_without_a_driver_there_is_no_gpu_part() -> None:
    with watch(nvml=FakeNvml(missing=("nvmlInit",)), interval_s=0.01) as seen:
        time.sleep(0.05)
    assert seen.gpu is None and seen.to_dict()["gpu"] is None and seen.energy_j is None
    assert len(seen.samples) >= 3


def test_without_the_package_there_is_no_gpu_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert Gpu.open() is None


# A process id that cannot be: what a container sees of the host.
ELSEWHERE = 2**22 + 5


@pytest.mark.parametrize(
    ("pids", "others"),
    [((), 0), ((os.getpid(),), 0), ((os.getpid(), 1), 1), ((os.getpid(), ELSEWHERE), 1), ((ELSEWHERE,), 0),
     ((ELSEWHERE, ELSEWHERE + 1), 1), ((1,), 1)],
)  # fmt: skip
def test_a_process_that_may_be_ours_is_not_another(pids: tuple[int, ...], others: int) -> None:
    gpu = Gpu.open(nvml=FakeNvml(pids=pids))
    assert gpu is not None and gpu.other_processes() == others


def test_the_fake_has_the_names_of_the_real_module() -> None:
    real = pytest.importorskip("pynvml")
    for name in dir(FakeNvml):
        assert not name.startswith("nvml") or callable(getattr(real, name)), name
    assert issubclass(real.NVMLError, Exception)
    assert (real.NVML_CLOCK_SM, real.NVML_CLOCK_MEM, real.NVML_TEMPERATURE_GPU) == (1, 2, 0)
    assert real.NVML_TEMPERATURE_THRESHOLD_SLOWDOWN == 1
    names = ("SwPowerCap", "HwSlowdown", "SwThermalSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown")
    assert [getattr(real, f"nvmlClocksThrottleReason{name}") for name in names] == list(THROTTLES)


LOAD = "import time\nend = time.monotonic() + 30\nwhile time.monotonic() < end: pass"


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="needs /proc")
def test_another_process_is_seen_and_our_own_work_is_not() -> None:
    with subprocess.Popen([sys.executable, "-c", LOAD]) as other:
        time.sleep(0.2)
        with watch() as seen:
            time.sleep(1.0)
        other.kill()
    assert seen.other_cores is not None and seen.other_cores > 0.3
    assert any("other processes used" in warning for warning in seen.warnings)
    assert seen.own_cores is not None and seen.own_cores < 0.3
    start = time.process_time()
    with watch() as seen:
        while time.process_time() < start + 0.6:
            pass
    assert seen.own_cores is not None and seen.own_cores * seen.duration_s == pytest.approx(0.6, abs=0.1)
    assert seen.other_cores is not None and seen.after is not None
    assert seen.after.threads >= 1 and seen.after.load_1min is not None


def test_the_clocks_of_another_machine_are_read_from_its_files(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    (tmp_path / "stat").write_text(
        f"cpu  9 9 9 9 9 9 9 9 0 0\ncpu{core} 100 20 30 400 50 6 7 80 0 0\ncpu999 1 1 1 1 1 1 1 1 0 0\n"
    )
    hertz = os.sysconf("SC_CLK_TCK")
    assert conditions._core_times(tmp_path) == (163 / hertz, 80 / hertz)
    (tmp_path / "stat").write_text(f"cpu  0 0 0 0 0 0 0 0 0 0\ncpu{core} 0 0 0 0 0 0 0 0 0 0\n")
    assert conditions._core_times(tmp_path) == (None, None)
    assert conditions._core_times(tmp_path / "nothing") == (None, None)
    (tmp_path / f"cpu{core}" / "cpufreq").mkdir(parents=True)
    (tmp_path / f"cpu{core}" / "cpufreq" / "scaling_governor").write_text("powersave\n")
    assert conditions._cpufreq("scaling_governor", tmp_path) == "powersave"
    assert conditions._cpufreq("scaling_cur_freq", tmp_path) is None


def test_what_was_seen_is_complete_when_the_measurement_fails() -> None:
    nvml = FakeNvml()
    with pytest.raises(ZeroDivisionError), watch(nvml=nvml) as seen:
        raise ZeroDivisionError
    assert seen.after is not None and len(seen.samples) == 2 and nvml.opened == 0


def test_watching_costs_next_to_nothing() -> None:
    with watch(nvml=FakeNvml()) as seen:
        time.sleep(1.1)
    assert len(seen.samples) >= 5
    assert seen.to_dict()["watching_share"] < 0.01
