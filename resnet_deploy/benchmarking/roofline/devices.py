"""What devices can do at most: a table of published figures, and ceilings measured on the machine itself.

Published figures are dense: what a datasheet gives "with sparsity" is halved. On GeForce cards FP16 and FP8 are those
that accumulate in FP16, twice the rate of those that accumulate in FP32.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from resnet_deploy._machine import cpu_name
from resnet_deploy.errors import UnavailableError, UsageError

COPY_BYTES = {"cpu": 256 * 2**20, "cuda": 2**30}  # above every last-level cache, so that memory is what is measured
# Large enough for products to be bound by arithmetic. On a CPU the smaller one ends between two turns of a neighbour.
MATRIX = {"cpu": (512, 1024), "cuda": (8192,)}
TRIAL_MATRIX = 256
TRIAL_FACTOR = 3  # a precision that is this much slower than FP32 has no fast product here: a loop would take minutes
TENSOR_TYPES = {"fp32": "float32", "tf32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8": "int8"}


@dataclass(frozen=True, kw_only=True)
class Ceiling:
    """A device's ceilings.

    Attributes:
        name: of the device.
        flop_s: operations a second by precision (a multiply-accumulate is two); one that is missing has no such units. tf32
            is FP32 data in the tensor cores.
        memory_bytes_s: bytes a second to and from its own memory.
        host_bytes_s: bytes a second from the host's memory in one direction; None for the CPU itself.
        source: the pages of the figures, or `measured`.
        names: what drivers call it.
    """

    name: str
    flop_s: dict[str, float]
    memory_bytes_s: float
    host_bytes_s: float | None
    source: str
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        rates = [*self.flop_s.values(), self.memory_bytes_s, *([] if self.host_bytes_s is None else [self.host_bytes_s])]
        if not self.flop_s or min(rates) <= 0:
            raise UsageError(f"the ceilings of {self.name} must be above 0; found {rates}")


def _row(name: str, tera: tuple[float | None, ...], memory_gb_s: float, host_gb_s: float, source: str, *names: str) -> Ceiling:
    """tera: 1e12 operations a second in the order of _COLUMNS, None where there are no such units."""
    rates = {column: rate * 1e12 for column, rate in zip(_COLUMNS, tera, strict=True) if rate is not None}
    return Ceiling(
        name=name, flop_s=rates, memory_bytes_s=memory_gb_s * 1e9, host_bytes_s=host_gb_s * 1e9, source=source, names=names
    )


_COLUMNS = ("fp32", "tf32", "fp16", "bf16", "fp8", "int8")
_NVIDIA = "https://www.nvidia.com"
_ASSETS = "https://images.nvidia.com/aem-dam"
_A100 = f"{_NVIDIA}/content/dam/en-zz/Solutions/Data-Center/a100/pdf/nvidia-a100-datasheet-nvidia-us-2188504-web.pdf"
_A100_40GB = f"{_NVIDIA}/content/dam/en-zz/Solutions/Data-Center/a100/pdf/nvidia-a100-datasheet.pdf"
_B200 = f"{_NVIDIA}/en-us/data-center/dgx-b200/ {_NVIDIA}/en-us/data-center/hgx/"
_ADA = f"{_ASSETS}/Solutions/geforce/ada/nvidia-ada-gpu-architecture.pdf"
_AMPERE = f"{_NVIDIA}/content/PDF/nvidia-ampere-ga-102-gpu-architecture-whitepaper-v2.pdf"
_BLACKWELL = f"{_ASSETS}/Solutions/geforce/blackwell/nvidia-rtx-blackwell-gpu-architecture.pdf"
_T4 = f"{_NVIDIA}/content/dam/en-zz/Solutions/Data-Center/tesla-t4/t4-tensor-core-product-brief.pdf"

_HOPPER = (67, 494.5, 989.5, 989.5, 1979, 1979)
_A100_TERA = (19.5, 156, 312, 312, None, 624)
# PCIe in one direction, x16: generation 3 16 GB/s, 4 32 GB/s, 5 64 GB/s.
DEVICES: tuple[Ceiling, ...] = (
    _row("H200", _HOPPER, 4800, 64, f"{_NVIDIA}/en-us/data-center/h200/", "NVIDIA H200"),
    _row("H100 SXM", _HOPPER, 3350, 64, f"{_NVIDIA}/en-us/data-center/h100/", "NVIDIA H100 80GB HBM3"),
    _row("H100 PCIe", (51, 378, 756.5, 756.5, 1513, 1513), 2000, 64, f"{_NVIDIA}/en-us/data-center/h100/", "NVIDIA H100 PCIe"),
    _row("A100 SXM 80GB", _A100_TERA, 2039, 32, _A100, "NVIDIA A100-SXM4-80GB"),
    _row("A100 PCIe 40GB", _A100_TERA, 1555, 32, _A100_40GB, "NVIDIA A100-PCIE-40GB", "A100-PCIE-40GB"),
    _row("A100 PCIe 80GB", _A100_TERA, 1935, 32, _A100, "NVIDIA A100 80GB PCIe"),
    _row("L4", (30.3, 60, 121, 121, 242.5, 242.5), 300, 32, f"{_NVIDIA}/en-us/data-center/l4/", "NVIDIA L4"),
    _row("L40S", (91.6, 183, 362, 362, 733, 733), 864, 32, f"{_NVIDIA}/en-us/data-center/l40s/", "NVIDIA L40S"),
    _row("A10", (31.2, 62.5, 125, 125, None, 250), 600, 32, f"{_NVIDIA}/en-us/data-center/products/a10-gpu/", "NVIDIA A10"),
    _row("T4", (8.1, None, 65, None, None, 130), 320, 16, _T4, "Tesla T4", "NVIDIA T4"),
    _row("RTX 4090", (82.6, 82.6, 330.3, 165.2, 660.6, 660.6), 1008, 32, _ADA, "NVIDIA GeForce RTX 4090"),
    _row("RTX 3090", (35.6, 35.6, 142, 71, None, 284), 936, 32, _AMPERE, "NVIDIA GeForce RTX 3090"),
    _row("B200", (75, 1100, 2250, 2250, 4500, 4500), 8000, 64, _B200, "NVIDIA B200"),
    _row("RTX 5090", (104.8, 104.8, 419, 209.5, 838, 838), 1792, 64, _BLACKWELL, "NVIDIA GeForce RTX 5090"),
)


def find_ceiling(name: str) -> Ceiling | None:
    """The published ceilings of a device by our name or by its driver's; None for one that the table lacks.

    Names must be equal: an `NVIDIA H200 NVL`, a laptop's card or a slice of a MIG device are other devices.
    """
    wanted = name.strip().casefold()
    return next(
        (ceiling for ceiling in DEVICES if wanted in {known.casefold() for known in (ceiling.name, *ceiling.names)}), None
    )


def measure_ceiling(
    device: str = "cpu", *, copy_bytes: int | None = None, matrix: int | None = None, duration_s: float = 0.3
) -> Ceiling:
    """Measure the ceilings that a large copy and large matrix products reach on this machine.

    These are lower than published peaks, and a kernel that is better than torch's can pass them (on one CPU ONNX Runtime's
    FP32 convolutions did, by 8 %); those of a busy machine mean nothing: `watch` it. A precision that torch has no fast
    product for is left out, and FP8 is not measured.

    Args:
        device: cpu, with torch's number of threads, or cuda.
        copy_bytes: of the copied array. A copy counts its reads and its writes, as STREAM does.
        matrix: rows of the square matrices.
        duration_s: for each ceiling, of which the best run counts.

    Returns:
        The ceilings.

    Raises:
        UnavailableError: there is no such device.
        UsageError: another name.
    """
    import torch

    if device not in MATRIX:
        raise UsageError(f"unknown device {device!r}; choose from {', '.join(MATRIX)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise UnavailableError("there is no CUDA device here to measure")
    best = _Best(duration_s, torch.cuda.synchronize if device == "cuda" else lambda: None)
    memory, host = _copies(torch, device, copy_bytes or COPY_BYTES[device], best)
    sizes, rates, slow_s = (matrix,) if matrix else MATRIX[device], {}, math.inf
    for precision in TENSOR_TYPES:
        if precision == "tf32" and device == "cpu":
            continue
        trial_s = _product_s(torch, precision, device, min(*sizes, TRIAL_MATRIX), best)
        if precision == "fp32":
            slow_s = TRIAL_FACTOR * trial_s
        if trial_s < slow_s:
            rates[precision] = max(2 * rows**3 / _product_s(torch, precision, device, rows, best) for rows in sizes)
    # A neighbour that held up the trial of FP32 lets slow ones through.
    rates = {precision: rate for precision, rate in rates.items() if rate * TRIAL_FACTOR > rates["fp32"]}
    name = torch.cuda.get_device_name() if device == "cuda" else f"{cpu_name()}, {torch.get_num_threads()} threads"
    return Ceiling(name=name, flop_s=rates, memory_bytes_s=memory, host_bytes_s=host, source="measured")


class _Best:
    """The shortest time of several runs, after one that does not count."""

    def __init__(self, duration_s: float, synchronize: Callable[[], None]) -> None:
        self._duration_s, self._synchronize = duration_s, synchronize

    def seconds(self, work: Callable[[], Any]) -> float:
        self._once(work)
        end, best = time.perf_counter() + self._duration_s, self._once(work)
        while time.perf_counter() < end:
            best = min(best, self._once(work))
        return best

    def _once(self, work: Callable[[], Any]) -> float:
        self._synchronize()
        start = time.perf_counter()
        work()
        self._synchronize()
        return time.perf_counter() - start


def _copies(torch: Any, device: str, size: int, best: _Best) -> tuple[float, float | None]:
    """Bytes a second within the device's memory, and from the host's, if that is another."""
    source = torch.zeros(size, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    memory = 2 * size / best.seconds(lambda: target.copy_(source))
    if device == "cpu":
        return memory, None
    pinned = torch.zeros(size, dtype=torch.uint8).pin_memory()
    return memory, size / best.seconds(lambda: target.copy_(pinned, non_blocking=True))


def _product_s(torch: Any, precision: str, device: str, rows: int, best: _Best) -> float:
    """Seconds of a product of square matrices; infinite where torch has none."""
    square = torch.ones(rows, rows, device=device, dtype=getattr(torch, TENSOR_TYPES[precision]))
    backend = torch.backends.cuda.matmul
    before, backend.allow_tf32 = backend.allow_tf32, precision == "tf32"
    try:
        if precision == "int8":
            return best.seconds(
                lambda: torch._int_mm(square, square.t())
            )  # columns of the second side by side, as its kernels want
        return best.seconds(lambda: square @ square)
    except (RuntimeError, AttributeError):
        return math.inf
    finally:
        backend.allow_tf32 = before
