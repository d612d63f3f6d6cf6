"""The machine that a figure was measured on."""

from __future__ import annotations

import importlib
import os
import platform
import sys
from pathlib import Path
from typing import Any

from resnet_deploy import _deps


def describe_machine() -> dict[str, Any]:
    """CPU, cores, memory, GPUs, load, operating system and package versions, as far as they can be read."""
    return {
        "cpu": cpu_name(),
        "cores": cores(),
        "memory_bytes": _memory_bytes(),
        "load_1min": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
        "gpus": gpus(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "packages": _deps.versions(),
    }


def cpu_name() -> str:
    """The processor's own name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.lower().startswith(("model name", "hardware")):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def exact_int8() -> bool:
    """Whether this processor's INT8 kernels are exact: x86 without VNNI adds pairs of 8-bit products in 16 bits, which saturate
    (https://onnxruntime.ai/docs/performance/model-optimizations/quantization.html). True where it cannot be read."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return True
    lines = cpuinfo.read_text(errors="replace").splitlines()
    flags = set(next((line.partition(":")[2] for line in lines if line.startswith("flags")), "").split())
    return not flags or bool(flags & {"avx512_vnni", "avx_vnni"})


def cores() -> int:
    """Logical cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def gpus(*, needed: bool = False) -> list[dict[str, Any]]:
    """Name, memory and compute capability of each CUDA device; empty without one, or where torch was not needed yet.

    needed: load torch to look, for what depends on the answer.
    """
    torch = importlib.import_module("torch") if needed else sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    devices = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices.append(
            {"name": properties.name, "memory_bytes": properties.total_memory,
             "compute_capability": f"{properties.major}.{properties.minor}"}
        )  # fmt: skip
    return devices


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
