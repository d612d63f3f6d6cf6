"""What a benchmark found, as objects, as JSON and as the rows of a table. `to_dict` of these is a contract with scripts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from resnet_deploy.benchmarking.measure import NOISY_IQR, Measurement

if TYPE_CHECKING:
    from resnet_deploy.benchmarking.profile import Profile
    from resnet_deploy.benchmarking.trtexec import Comparison


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
class ScenarioResult:
    """One of MLPerf's scenarios on one candidate, as LoadGen judged it.

    valid, reason: LoadGen's verdict and its words where that is INVALID. error: what the backend died of, None where it did
    not. metrics: seconds, samples a second, queries a second (`_qps`) and counts by name; `top1_accuracy` is of LoadGen's
    logged answers. notes: hints, and what failed above the Server's rate. log_files: LoadGen's, in the bundle. gate and
    failures: of the candidate's parity, as in Result.
    """

    backend: str
    device: str
    precision: str
    scenario: str
    valid: bool
    reason: str
    error: str | None
    notes: list[str]
    metrics: dict[str, float | int]
    log_files: list[str]
    parity: dict[str, Any]
    parity_data: str
    gate: str
    failures: list[str]
    threads: int | None
    runtime: dict[str, Any]
    measured: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """machine: as `benchmarking.machine` describes it. model: the manifest's description. results: batch by batch.
    scenarios: of LoadGen, candidate by candidate. profiles: layers, batch by batch. trtexec: what it says of the same plans."""

    machine: dict[str, Any]
    model: dict[str, Any]
    results: list[Result]
    warnings: list[str] = field(default_factory=list)
    scenarios: list[ScenarioResult] = field(default_factory=list)
    profiles: list[Profile] = field(default_factory=list)
    trtexec: list[Comparison] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def rows(self) -> list[Result | ScenarioResult]:
        return [*self.results, *self.scenarios]

    @property
    def failures(self) -> list[str]:
        """Gates that failed, and scenarios that are not VALID, in words and each once."""
        found = [f"{row.backend} ({row.precision}, {row.device}): {said}" for row in self.rows for said in row.failures]
        found += [
            f"{row.backend} ({row.precision}, {row.device}), {row.scenario}: {row.reason}"
            for row in self.scenarios
            if not row.valid
        ]
        found += [f"{one.who}, profile: {one.error}" for one in self.profiles if one.error is not None]
        found += [f"{one.who}: {one.error}" for one in self.trtexec if one.error is not None]
        return list(dict.fromkeys(found))

    @property
    def broken(self) -> bool:
        """Whether a backend, a profile or trtexec failed while it ran."""
        errors = (
            [row.error for row in self.scenarios] + [one.error for one in self.profiles] + [one.error for one in self.trtexec]
        )
        return any(error is not None for error in errors)

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
