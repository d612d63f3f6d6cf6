"""What an NVIDIA GPU is doing: clocks, power, temperature, throttling, memory, as NVML tells it (package nvidia-ml-py)."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_deploy import _deps
from resnet_deploy.errors import MissingPackageError

# NVML's clocks-event reasons that hold a busy GPU below the clocks it was asked for. An idle GPU, and clocks that
# somebody set on purpose, are no fault.
THROTTLES = {
    0x04: "power cap",
    0x08: "hardware slowdown",
    0x20: "software thermal slowdown",
    0x40: "hardware thermal slowdown",
    0x80: "power brake",
}
_CLOCK_SM, _CLOCK_MEMORY, _TEMPERATURE_GPU, _THRESHOLD_SLOWDOWN = 1, 2, 0, 1  # NVML's enumerations


@dataclass(frozen=True, kw_only=True)
class GpuInfo:
    """What does not change of a GPU, None where the driver does not tell.

    Attributes:
        name: as the driver has it.
        sm_clock_max_hz: of its multiprocessors.
        power_limit_w: watts.
        slowdown_c: the temperature at which the hardware lowers its clocks, degrees Celsius.
    """

    name: str
    sm_clock_max_hz: float | None
    power_limit_w: float | None
    slowdown_c: float | None


@dataclass(frozen=True, kw_only=True)
class GpuState:
    """One look at a GPU, None where it does not tell.

    Attributes:
        sm_clock_hz, memory_clock_hz: clocks.
        power_w: watts.
        temperature_c: degrees Celsius.
        throttled: names of THROTTLES.
        memory_used_bytes: of all processes.
        utilization_percent: time in which a kernel ran.
        energy_j: joules since the driver was loaded.
    """

    sm_clock_hz: float | None
    memory_clock_hz: float | None
    power_w: float | None
    temperature_c: float | None
    throttled: tuple[str, ...]
    memory_used_bytes: int | None
    utilization_percent: float | None
    energy_j: float | None


class Gpu:
    """One GPU, looked at through NVML until it is closed.

    Args:
        nvml: the module.
        handle: NVML's.
    """

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        name = self._ask("nvmlDeviceGetName")
        limit_mw = self._ask("nvmlDeviceGetEnforcedPowerLimit")
        self.info = GpuInfo(
            name=name.decode() if isinstance(name, bytes) else str(name),
            sm_clock_max_hz=_times(self._ask("nvmlDeviceGetMaxClockInfo", _CLOCK_SM), 1e6),
            power_limit_w=_times(limit_mw, 1e-3),
            slowdown_c=self._ask("nvmlDeviceGetTemperatureThreshold", _THRESHOLD_SLOWDOWN),
        )

    @classmethod
    def open(cls, which: int | str | None = None, nvml: Any = None) -> Gpu | None:
        """Open a GPU.

        Args:
            which: a number, in PCI order, or a UUID; by default the first that CUDA_VISIBLE_DEVICES has.
            nvml: the module, by default pynvml.

        Returns:
            The GPU; None where there is no such package, no driver or no such GPU.
        """
        try:
            nvml = nvml or _deps.require("pynvml", extra="gpu")
        except MissingPackageError:
            return None
        try:
            nvml.nvmlInit()
        except nvml.NVMLError:
            return None
        try:
            return cls(nvml, _handle(nvml, _visible() if which is None else which))
        except nvml.NVMLError:
            nvml.nvmlShutdown()
            return None

    def read(self) -> GpuState:
        """One look, without waiting for the GPU."""
        reasons = self._ask("nvmlDeviceGetCurrentClocksEventReasons")
        if reasons is None:  # the name before driver 535
            reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons") or 0
        memory, utilization = self._ask("nvmlDeviceGetMemoryInfo"), self._ask("nvmlDeviceGetUtilizationRates")
        return GpuState(
            sm_clock_hz=_times(self._ask("nvmlDeviceGetClockInfo", _CLOCK_SM), 1e6),
            memory_clock_hz=_times(self._ask("nvmlDeviceGetClockInfo", _CLOCK_MEMORY), 1e6),
            power_w=_times(self._ask("nvmlDeviceGetPowerUsage"), 1e-3),
            temperature_c=self._ask("nvmlDeviceGetTemperature", _TEMPERATURE_GPU),
            throttled=tuple(name for bit, name in THROTTLES.items() if reasons & bit),
            memory_used_bytes=None if memory is None else int(memory.used),
            utilization_percent=None if utilization is None else float(utilization.gpu),
            energy_j=_times(self._ask("nvmlDeviceGetTotalEnergyConsumption"), 1e-3),
        )

    def other_processes(self) -> int:
        """How many other processes compute on it.

        Inside a container NVML gives process ids of the host: one that does not exist here may be this very process.
        """
        pids = {int(process.pid) for process in self._ask("nvmlDeviceGetComputeRunningProcesses") or ()}
        if os.getpid() in pids:
            return len(pids) - 1
        hidden = any(not Path("/proc", str(pid)).exists() for pid in pids)
        return len(pids) - hidden

    def close(self) -> None:
        with contextlib.suppress(self._nvml.NVMLError):
            self._nvml.nvmlShutdown()

    def _ask(self, name: str, *arguments: Any) -> Any:
        """NVML's answer; None where this GPU, driver or package does not have it."""
        function = getattr(self._nvml, name, None)
        try:
            return None if function is None else function(self._handle, *arguments)
        except self._nvml.NVMLError:
            return None


def _visible() -> int | str:
    """As CUDA reads it: a number or a UUID, and anything else, also nothing at all, hides every GPU."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    return int(first) if first.isdecimal() else first


def _handle(nvml: Any, which: int | str) -> Any:
    return nvml.nvmlDeviceGetHandleByUUID(which) if isinstance(which, str) else nvml.nvmlDeviceGetHandleByIndex(which)


def _times(value: Any, factor: float) -> float | None:
    return None if value is None else float(value) * factor
