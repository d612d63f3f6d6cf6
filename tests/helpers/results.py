"""Results of a benchmark with figures of one's own."""

from __future__ import annotations

from typing import Any

from resnet_deploy.benchmarking.report import Latency, Result


def latency(p50: float, iqr: float = 0.0) -> Latency:
    """Of one value, in seconds."""
    return Latency(p50=p50, p90=p50, p99=p50, mean=p50, iqr=iqr)


def row(
    p50_ms: float, *, batch: int = 1, device_ms: float | None = None, enqueue_ms: float | None = None, **changes: Any
) -> Result:
    """A result of `bench`, as if it had been measured so; other fields by name."""
    noisy = changes.get("noisy", False)
    values: dict[str, Any] = {
        "backend": "onnxruntime", "device": "cpu", "precision": "fp32", "batch": batch,
        "latency_s": latency(p50_ms / 1e3, iqr=p50_ms / 1e3 * (0.2 if noisy else 0.01)),
        "device_latency_s": latency((p50_ms if device_ms is None else device_ms) / 1e3),
        "images_per_s": batch / (p50_ms / 1e3), "speedup": None, "samples": 100, "noisy": noisy, "warm": True, "parity": {},
        "parity_data": "random", "gate": "pass", "failures": [], "threads": 2, "runtime": {}, "measured": "now",
    }  # fmt: skip
    enqueue = None if enqueue_ms is None else latency(enqueue_ms / 1e3)
    return Result(**(values | changes), enqueue_latency_s=enqueue)
