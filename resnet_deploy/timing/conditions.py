"""What the machine did while something was measured, and what of that makes a figure unsafe.

    with watch() as seen:
        ...                      # the measurement
    seen.to_dict(), seen.warnings

The CPU is counted before and after: other processes' share is the cores' busy time less our own. The GPU, where there is
one and nvidia-ml-py is installed, is looked at before, after, and four times a second between, on a thread of its own.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from resnet_deploy._machine import cores
from resnet_deploy.timing.nvml import Gpu, GpuInfo, GpuState

INTERVAL_S = 0.25  # clocks and temperature move in seconds; NVML itself refreshes power about ten times a second
MIN_DURATION_S = 0.5  # the kernel counts CPU time in ticks of 10 ms: below this, a tick a core is more than 2 %
OTHER_LOAD_CORES = 0.2  # an idle machine's services take less than 0.05; this delays one thread by twice our noise limit
STOLEN_CORES = 0.05  # a hypervisor that takes more than this takes it in slices of milliseconds: they are the p99
CLOCK_DROP = 0.05  # of the highest clock seen; half of what counts as noise, and throughput follows the clock
HOT_MARGIN_C = 5  # below the slowdown threshold; fans and clocks start to react here
HOT_C = 85  # where the threshold is not told: data-centre cards slow down at 87 to 92
BUSY_PERCENT = 50  # an idle GPU lowers its clocks by itself: only these samples are compared
ENERGY_MIN_S = 1.0  # the counter is refreshed in steps of up to 100 ms


@dataclass(frozen=True, kw_only=True)
class CpuCounters:
    """The CPU's counters at one moment, None where there is no /proc.

    Attributes:
        busy_s: CPU seconds since boot of the cores that we may use, by anybody.
        stolen_s: CPU seconds since boot that a hypervisor gave to others.
        own_s: CPU seconds of this process and its children.
        load_1min: the load average.
        threads: of this process.
    """

    busy_s: float | None
    stolen_s: float | None
    own_s: float
    load_1min: float | None
    threads: int


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One look at the machine.

    Attributes:
        time_s: of a monotonic clock.
        cpu_clock_hz: mean of the cores.
        gpu: None without one.
    """

    time_s: float
    cpu_clock_hz: float | None
    gpu: GpuState | None


@dataclass(kw_only=True)
class Conditions:
    """What was seen of the machine; complete once `watch` has ended.

    Attributes:
        cores: that we may use.
        governor: of the CPU's clock.
        gpu: what does not change; None without one.
        before, after: the CPU's counters.
        samples: looks, the first one before and the last one after.
        other_gpu_processes: the most at one time.
        watching_s: CPU seconds that the looks themselves took.
    """

    cores: int
    governor: str | None
    gpu: GpuInfo | None
    before: CpuCounters
    after: CpuCounters | None = None
    samples: list[Sample] = field(default_factory=list)
    other_gpu_processes: int = 0
    watching_s: float = 0.0

    @property
    def duration_s(self) -> float:
        return self.samples[-1].time_s - self.samples[0].time_s if self.samples else 0.0

    @property
    def other_cores(self) -> float | None:
        """CPU use of everything else on our cores, in cores; None where it was not counted or for too short a time."""
        own = self.own_cores
        busy = self._rate(lambda cpu: cpu.busy_s)
        return None if busy is None or own is None else max(0.0, busy - own)

    @property
    def stolen_cores(self) -> float | None:
        """Cores' worth of time that a hypervisor gave to other machines."""
        return self._rate(lambda cpu: cpu.stolen_s)

    @property
    def own_cores(self) -> float | None:
        """CPU use of this process, in cores."""
        return self._rate(lambda cpu: cpu.own_s)

    @property
    def energy_j(self) -> float | None:
        """What the GPU used, all of it: also what it uses when idle. None for less than a second."""
        states = self._gpu_states()
        if len(states) < 2 or self.duration_s < ENERGY_MIN_S:
            return None
        first, last = states[0].energy_j, states[-1].energy_j
        return None if first is None or last is None else last - first

    def energy_per_image_j(self, images: int) -> float | None:
        """Joules an image, `images` having been all that the GPU did."""
        return None if self.energy_j is None or images < 1 else self.energy_j / images

    @property
    def throttled(self) -> dict[str, float]:
        """Share of the samples under each reason to throttle; without those of none."""
        states = self._gpu_states()
        counts: dict[str, int] = {}
        for state in states:
            for reason in state.throttled:
                counts[reason] = counts.get(reason, 0) + 1
        return {reason: count / len(states) for reason, count in counts.items()}

    @property
    def clock_drop(self) -> float | None:
        """How far the GPU's clock fell below the highest seen, of that, while it was busy; None without two such samples."""
        busy = [state for state in self._gpu_states() if (state.utilization_percent or 0) >= BUSY_PERCENT]
        clocks = [state.sm_clock_hz for state in busy if state.sm_clock_hz]
        return 1 - min(clocks) / max(clocks) if len(clocks) > 1 else None

    @property
    def warnings(self) -> list[str]:
        """What makes a figure unsafe, in words."""
        warnings = [
            f"the GPU throttled: {reason} in {share:.0%} of the samples" for reason, share in sorted(self.throttled.items())
        ]
        if self.clock_drop is not None and self.clock_drop > CLOCK_DROP:
            warnings.append(
                f"the GPU's clock dropped by {self.clock_drop:.0%} during the measurement; lock it, or warm up longer"
            )
        hottest = max((state.temperature_c for state in self._gpu_states() if state.temperature_c is not None), default=None)
        limit = HOT_C if self.gpu is None or self.gpu.slowdown_c is None else self.gpu.slowdown_c - HOT_MARGIN_C
        if hottest is not None and hottest >= limit:
            warnings.append(f"the GPU reached {hottest:.0f} °C; from {limit:.0f} °C on it is about to slow down")
        if self.other_gpu_processes:
            warnings.append(f"other processes use the GPU ({self.other_gpu_processes}): its time and memory are shared")
        if self.other_cores is not None and self.other_cores > OTHER_LOAD_CORES:
            warnings.append(f"other processes used {self.other_cores:.1f} of {self.cores} cores")
        if self.stolen_cores is not None and self.stolen_cores > STOLEN_CORES:
            warnings.append(f"the hypervisor took {self.stolen_cores:.2f} of {self.cores} cores for other machines")
        if self.governor == "powersave":
            warnings.append("the CPU frequency governor is powersave: clocks rise late; set it to performance")
        return warnings

    def to_dict(self) -> dict[str, Any]:
        """A summary: figures before, during and after."""
        clocks = [sample.cpu_clock_hz for sample in self.samples]
        cpu = {
            "cores": self.cores, "governor": self.governor, "clock_hz": _spread(clocks),
            "load_1min_before": self.before.load_1min, "load_1min_after": self.after and self.after.load_1min,
            "own_cores": self.own_cores, "other_cores": self.other_cores, "stolen_cores": self.stolen_cores,
            "threads": self.after.threads if self.after else self.before.threads,
        }  # fmt: skip
        return {
            "duration_s": self.duration_s, "cpu": cpu, "gpu": self._gpu_dict(), "samples": len(self.samples),
            "watching_share": self.watching_s / self.duration_s if self.duration_s else 0.0, "warnings": self.warnings,
        }  # fmt: skip

    def _gpu_dict(self) -> dict[str, Any] | None:
        states = self._gpu_states()
        if self.gpu is None or not states:
            return None
        names = ("sm_clock_hz", "memory_clock_hz", "power_w", "temperature_c", "memory_used_bytes", "utilization_percent")
        return {
            **asdict(self.gpu), "before": asdict(states[0]), "after": asdict(states[-1]),
            "during": {name: _spread([getattr(state, name) for state in states[1:-1]]) for name in names},
            "throttled": self.throttled, "clock_drop": self.clock_drop, "energy_j": self.energy_j,
            "other_processes": self.other_gpu_processes,
        }  # fmt: skip

    def _gpu_states(self) -> list[GpuState]:
        return [sample.gpu for sample in self.samples if sample.gpu is not None]

    def _rate(self, counter: Callable[[CpuCounters], float | None]) -> float | None:
        if self.after is None or self.duration_s < MIN_DURATION_S:
            return None
        first, last = counter(self.before), counter(self.after)
        return None if first is None or last is None else (last - first) / self.duration_s


@contextlib.contextmanager
def watch(*, gpu: int | str | None = None, interval_s: float = INTERVAL_S, nvml: Any = None) -> Iterator[Conditions]:
    """Watch the machine while the block runs. Without pynvml, a driver or a GPU there is no GPU part, and no error.

    Args:
        gpu: NVML's number (PCI order) or UUID, by default the first of CUDA_VISIBLE_DEVICES.
        interval_s: between two looks, seconds.
        nvml: the module, by default pynvml.

    Yields:
        What was seen; complete when the block has ended, however it ends.
    """
    device = Gpu.open(gpu, nvml)
    try:
        with watch_with(device, interval_s=interval_s) as seen:
            yield seen
    finally:
        if device is not None:
            device.close()


@contextlib.contextmanager
def watch_with(device: Gpu | None, *, interval_s: float = INTERVAL_S) -> Iterator[Conditions]:
    """As `watch`, of a GPU that stays open, or of the CPU alone.

    Args:
        device: the GPU, None for the CPU alone.
        interval_s: between two looks, seconds.

    Yields:
        What was seen; complete when the block has ended.
    """
    ended = threading.Event()
    seen = Conditions(cores=cores(), governor=_governor(), gpu=device.info if device else None, before=_cpu_counters())
    _look(seen, device)
    thread = threading.Thread(target=_keep_looking, args=(seen, device, interval_s, ended), daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        ended.set()
        thread.join()
        _look(seen, device)
        seen.after = _cpu_counters()


def _keep_looking(seen: Conditions, device: Gpu | None, interval_s: float, ended: threading.Event) -> None:
    while not ended.wait(interval_s):
        start = time.thread_time()
        _look(seen, device)
        seen.watching_s += time.thread_time() - start


def _look(seen: Conditions, device: Gpu | None) -> None:
    state = device.read() if device else None
    seen.samples.append(Sample(time_s=time.perf_counter(), cpu_clock_hz=_cpu_clock_hz(), gpu=state))
    if device is not None:
        seen.other_gpu_processes = max(seen.other_gpu_processes, device.other_processes())


def _cpu_counters(root: Path = Path("/proc")) -> CpuCounters:
    busy, stolen = _core_times(root)
    children = os.times()
    return CpuCounters(
        busy_s=busy,
        stolen_s=stolen,
        own_s=time.process_time() + children.children_user + children.children_system,
        load_1min=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        threads=_threads(root),
    )


def _core_times(root: Path) -> tuple[float | None, float | None]:
    """Busy and stolen seconds of the cores that we may use, by proc(5): user nice system idle iowait irq softirq steal."""
    text = _text(root / "stat")
    if text is None or not hasattr(os, "sched_getaffinity"):
        return None, None
    ours = {f"cpu{core}" for core in os.sched_getaffinity(0)}
    rows = [line.split() for line in text.splitlines() if line.startswith("cpu")]
    ticks = [[int(value) for value in row[1:]] for row in rows if row[0] in ours]
    if not any(map(any, ticks)):  # sandboxes that have the file and no figures
        return None, None
    hertz = os.sysconf("SC_CLK_TCK")
    busy = sum(sum(row[:3]) + sum(row[5:7]) for row in ticks) / hertz
    return busy, sum(row[7] for row in ticks) / hertz


def _threads(root: Path) -> int:
    """Of this process, those of native libraries too."""
    tasks = root / "self" / "task"
    return len(list(tasks.iterdir())) if tasks.is_dir() else threading.active_count()


def _cpu_clock_hz() -> float | None:
    """Of the first core that we may use: asking more cores interrupts each of them."""
    text = _cpufreq("scaling_cur_freq")
    return None if text is None else float(text) * 1e3


def _governor() -> str | None:
    return _cpufreq("scaling_governor")


def _cpufreq(name: str, root: Path = Path("/sys/devices/system/cpu")) -> str | None:
    core = min(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0
    return _text(root / f"cpu{core}" / "cpufreq" / name)


def _text(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except OSError:
        return None


def _spread(values: list[Any]) -> dict[str, float] | None:
    known = [value for value in values if value is not None]
    return {"min": min(known), "median": median(known), "max": max(known)} if known else None
