"""NVML as a GPU that does as it is told."""

from __future__ import annotations

import os
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from resnet_deploy.timing import conditions as conditions
from resnet_deploy.timing.nvml import GpuState

MHZ = 1_000_000.0


class FakeNvml:
    """A GPU that answers in NVML's units: MHz, mW, mJ, °C, bytes."""

    class NVMLError(Exception):
        """As pynvml's."""

    def __init__(self, **changes: Any) -> None:
        self.reasons, self.temperature, self.clock, self.utilization = 0, 60, 1980, 95
        self.pids: tuple[int, ...] = (os.getpid(),)
        self.missing: tuple[str, ...] = ()
        self.opened = self.energy_mj = 0
        self.asked: list[Any] = []
        vars(self).update(changes)

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("nvml") and name in object.__getattribute__(self, "missing"):
            return object.__getattribute__(self, "_refuse")
        return object.__getattribute__(self, name)

    def _refuse(self, *_: Any) -> None:
        raise self.NVMLError("not supported")

    def nvmlInit(self) -> None:
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        self.asked.append(index)
        if index > 1:
            raise self.NVMLError("no such GPU")
        return "handle"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        self.asked.append(uuid)
        if not uuid.startswith("GPU-"):
            raise self.NVMLError("no such GPU")
        return "handle"

    def nvmlDeviceGetName(self, handle: str) -> str:
        assert handle == "handle"
        return "NVIDIA H200"

    def nvmlDeviceGetEnforcedPowerLimit(self, handle: str) -> int:
        return 700_000

    def nvmlDeviceGetMaxClockInfo(self, handle: str, kind: int) -> int:
        return {1: 1980, 2: 3201}[kind]

    def nvmlDeviceGetTemperatureThreshold(self, handle: str, kind: int) -> int:
        return {1: 90}[kind]

    def nvmlDeviceGetCurrentClocksEventReasons(self, handle: str) -> int:
        return self.reasons

    def nvmlDeviceGetClockInfo(self, handle: str, kind: int) -> int:
        return {1: self.clock, 2: 3201}[kind]

    def nvmlDeviceGetPowerUsage(self, handle: str) -> int:
        return 450_500

    def nvmlDeviceGetTemperature(self, handle: str, sensor: int) -> int:
        return {0: self.temperature}[sensor]

    def nvmlDeviceGetMemoryInfo(self, handle: str) -> Any:
        return SimpleNamespace(used=2 * 2**30, free=139 * 2**30, total=141 * 2**30)

    def nvmlDeviceGetUtilizationRates(self, handle: str) -> Any:
        return SimpleNamespace(gpu=self.utilization, memory=30)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        self.energy_mj += 100_000
        return self.energy_mj

    def nvmlDeviceGetComputeRunningProcesses(self, handle: str) -> list[Any]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=2**20) for pid in self.pids]


def gpu_state(**changes: Any) -> GpuState:
    """A GPU at work that nothing holds back, with changes."""
    state = GpuState(
        sm_clock_hz=1980 * MHZ, memory_clock_hz=3201 * MHZ, power_w=450.0, temperature_c=60, throttled=(),
        memory_used_bytes=2**31, utilization_percent=95.0, energy_j=0.0,
    )  # fmt: skip
    return replace(state, **changes)
