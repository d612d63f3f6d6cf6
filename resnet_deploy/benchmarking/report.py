"""What a benchmark found, as objects, as JSON and as the rows of a table. `to_dict` of these is a contract with scripts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from resnet_deploy.benchmarking.measure import NOISY_IQR, Measurement


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Seconds an inference of a whole batch."""

    p50: float
    p90: float
    p99: float
    mean: float
    iqr: float


@dataclass(frozen=True, kw_only=True)
class Result:
    """One candidate at one batch size.

    latency_s: host to host. device_latency_s: enqueue and synchronize alone, the batch being bound. images_per_s: batch
    over the median of latency_s. speedup: eager's median over this one, from the same run. gate: pass or fail; failures
    say why. measured: when, so that a figure kept from an earlier run can be told.
    """

    backend: str
    device: str
    precision: str
    batch: int
    latency_s: Latency
    device_latency_s: Latency
    images_per_s: float
    speedup: float | None
    samples: int
    noisy: bool
    warm: bool
    parity: dict[str, Any]
    parity_data: str
    gate: str
    failures: list[str]
    threads: int | None
    runtime: dict[str, Any]
    measured: str


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """machine: as `benchmarking.machine` describes it. model: the manifest's description. results: batch by batch."""

    machine: dict[str, Any]
    model: dict[str, Any]
    results: list[Result]
    warnings: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return all(result.gate == "pass" for result in self.results)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def record(measurement: Measurement, **about: Any) -> dict[str, Any]:
    """A measurement as the manifest keeps it; the raw samples are kept beside it."""
    return {
        "latency_s": measurement.host.to_dict(),
        "device_latency_s": measurement.device.to_dict(),
        "images_per_s": measurement.images_per_s,
        "samples": len(measurement.host.values_s),
        "noisy": measurement.host.noisy,
        "warm": measurement.warm,
        "warmup_runs": measurement.warmup_runs,
        **about,
    }


def warnings_for(results: list[Result], described: Mapping[str, Any]) -> list[str]:
    """What makes a figure unsafe, in words."""
    found = []
    if described["weights"]["source"] == "random":
        found.append("the weights are random: the speed is real, the accuracy means nothing (give --weights)")
    if noisy := [r for r in results if r.noisy]:
        names = ", ".join(sorted({f"{r.backend} at batch {r.batch}" for r in noisy}))
        found.append(f"noisy: the middle half of the samples spreads over more than {NOISY_IQR:.0%} of the median ({names})")
    if cold := [r for r in results if not r.warm]:
        names = ", ".join(sorted({f"{r.backend} at batch {r.batch}" for r in cold}))
        found.append(f"the warm-up did not become stable ({names})")
    return found
