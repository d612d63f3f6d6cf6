"""What a benchmark found, as objects, as JSON and as the rows of a table. `to_dict` of these is a contract with scripts."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from resnet_deploy.bundle.fields import Latency as Latency
from resnet_deploy.bundle.records import MeasurementRecord
from resnet_deploy.parity.gates import GateCheck
from resnet_deploy.timing.measure import Measurement

STAGES = ("enqueue", "h2d", "compute", "d2h", "host")  # of benchmarking.measure's Stages, without their unit
if TYPE_CHECKING:
    from resnet_deploy.benchmarking.layers.profile import LayerProfile
    from resnet_deploy.benchmarking.layers.trtexec import TrtexecComparison


@dataclass(frozen=True, kw_only=True)
class CandidateRow:
    """What a row is of: a candidate."""

    backend: str
    device: str
    precision: str

    @property
    def who(self) -> str:
        """The candidate in words: `onnxruntime (int8, cpu)`."""
        return f"{self.backend} ({self.precision}, {self.device})"


@dataclass(frozen=True, kw_only=True)
class Result(CandidateRow):
    """One candidate at one batch size.

    latency_s: host to host. device_latency_s: enqueue and synchronize alone, the batch being bound. images_per_s: batch
    over the median of latency_s. speedup: eager's median over this one, from the same run. gate: pass or fail; failures
    say why. measured: when, so that a figure kept from an earlier run can be told. judged_on: a key of the images of parity:
    of two rows with the same one, parity's outcomes are of the same images in the same order.

    By a GPU's own clock, and None without one: enqueue_latency_s, h2d_latency_s, compute_latency_s, d2h_latency_s are
    trtexec's Enqueue Time, H2D Latency, GPU Compute Time and D2H Latency; host_latency_s its Latency, the sum of the last
    three. On a CPU, compute_latency_s is the inference itself. throughput_images_per_s: with queries queued ahead on all
    streams, trtexec's Throughput, in turns of some tenths of a second; sustained: the same without a pause, with its own
    conditions, where it was asked for. settings: the named options behind these figures. roofline: the floor, and how much of
    it was reached, of latency_s (`reached_percent`) and of the device alone (`device_reached_percent`). conditions: of the
    turns in which it was measured, with `energy_per_image_j` of the queued queries. partial: interrupted before its time.

    artifact, size_bytes: the bundle's file that was run. gates: what its gate judged, the most telling condition first.
    """

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
    enqueue_latency_s: Latency | None = None
    h2d_latency_s: Latency | None = None
    compute_latency_s: Latency | None = None
    d2h_latency_s: Latency | None = None
    host_latency_s: Latency | None = None
    throughput_images_per_s: float | None = None
    sustained: dict[str, Any] | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    roofline: dict[str, Any] | None = None
    conditions: dict[str, Any] | None = None
    partial: bool = False
    judged_on: str | None = None
    artifact: str | None = None
    size_bytes: int | None = None
    gates: list[GateCheck] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class BatchRow(CandidateRow):
    """What a row is of: a candidate at a batch size."""

    batch: int

    @property
    def who(self) -> str:
        """As in `onnxruntime (int8, cpu) at batch 8`."""
        return f"{super().who} at batch {self.batch}"

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What to deploy, or why there is no answer.

    Attributes:
        kind: `deploy`; `speed-only`, where the weights are random and only the speed means something; or `none`.
        text: the decision as a sentence.
        reason: why it is not `deploy`; None where it is.
        row: the chosen row's position in the report's results.
        eager: the position of the row that it is compared with, eager PyTorch at the same batch; None without one.
        artifact: the bundle's file to deploy.
        size_bytes: of that file.
        backend: what runs it.
        device: cpu or cuda.
        precision: of its convolutions.
        batch: images at a time.
        images_per_s: one batch after the other, host to host.
        speedup: images_per_s over eager's.
        accuracy_difference: top-1 minus the reference's, a fraction of the images; None without labels.
        accuracy_difference_low: the lower end of its 95 % interval, of paired answers.
        accuracy_difference_high: the upper end.
    """

    kind: str
    text: str
    reason: str | None = None
    row: int | None = None
    eager: int | None = None
    artifact: str | None = None
    size_bytes: int | None = None
    backend: str | None = None
    device: str | None = None
    precision: str | None = None
    batch: int | None = None
    images_per_s: float | None = None
    speedup: float | None = None
    accuracy_difference: float | None = None
    accuracy_difference_low: float | None = None
    accuracy_difference_high: float | None = None


@dataclass(frozen=True, kw_only=True)
class Unmeasured(CandidateRow):
    """What a backend that died left behind. batch: None where it died before any, in a run without a sweep. error: of what,
    in words."""

    batch: int | None
    error: str


@dataclass(frozen=True, kw_only=True)
class ScenarioResult(CandidateRow):
    """One of MLPerf's scenarios on one candidate, as LoadGen judged it.

    valid, reason: LoadGen's verdict and its words where that is INVALID. error: what the backend died of, None where it did
    not. metrics: seconds, samples a second, queries a second (`_qps`) and counts by name; `top1_accuracy` is of LoadGen's
    logged answers. notes: hints, and what failed above the Server's rate. log_files: LoadGen's, in the bundle. gate,
    failures, judged_on: of the candidate's parity, as in Result.
    """

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
    conditions: dict[str, Any] | None = None
    judged_on: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """What a benchmark found.

    Attributes:
        machine: as `_machine` describes it.
        model: the manifest's description.
        results: batch by batch.
        warnings: what makes figures unsafe, in words.
        scenarios: of LoadGen, candidate by candidate.
        unmeasured: of backends that died.
        verdicts: what the results say, as `benchmarking.advice` has it.
        profiles: layers, batch by batch.
        trtexec: what it says of the same plans.
        interrupted: by Ctrl-C; the report has what was done by then.
        decision: what to deploy; None where no latency was measured.
    """

    machine: dict[str, Any]
    model: dict[str, Any]
    results: list[Result]
    warnings: list[str] = field(default_factory=list)
    scenarios: list[ScenarioResult] = field(default_factory=list)
    unmeasured: list[Unmeasured] = field(default_factory=list)
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    profiles: list[LayerProfile] = field(default_factory=list)
    trtexec: list[TrtexecComparison] = field(default_factory=list)
    interrupted: bool = False
    decision: Decision | None = None

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def rows(self) -> list[Result | ScenarioResult]:
        return [*self.results, *self.scenarios]

    @property
    def failures(self) -> list[str]:
        """Gates that failed, scenarios that are not VALID and backends that died, in words and each once."""
        failures = [f"{row.who}: {failure}" for row in self.rows for failure in row.failures]
        failures += [f"{row.who}, {row.scenario}: {row.reason}" for row in self.scenarios if not row.valid]
        failures += [f"{row.who}: {row.error}" for row in self.unmeasured]
        failures += [f"{row.who}, profile: {row.error}" for row in self.profiles if row.error is not None]
        failures += [f"{row.who}: {row.error}" for row in self.trtexec if row.error is not None]
        return list(dict.fromkeys(failures))

    @property
    def broken(self) -> bool:
        """Whether a backend, a profile or trtexec failed while it ran."""
        errors = [one.error for one in self.scenarios] + [one.error for one in self.profiles]
        errors += [one.error for one in self.trtexec]
        return bool(self.unmeasured) or any(error is not None for error in errors)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def record(measurement: Measurement, **about: Any) -> MeasurementRecord:
    """A measurement as the manifest keeps it; the raw samples are kept beside it."""
    stages: dict[str, Any] = {name: measurement.stage(f"{name}_s") for name in STAGES}
    if not measurement.stages:
        stages["compute"] = measurement.device
    parts: dict[str, Any] = {f"{name}_latency_s": stage and Latency(**stage.to_dict()) for name, stage in stages.items()}
    conditions = None
    if measurement.conditions is not None:
        conditions = {**measurement.conditions.to_dict(), "energy_per_image_j": measurement.energy_per_image_j}
    return MeasurementRecord(
        latency_s=Latency(**measurement.host.to_dict()), device_latency_s=Latency(**measurement.device.to_dict()),
        images_per_s=measurement.images_per_s, samples=len(measurement.host.values_s), noisy=measurement.host.noisy,
        warm=measurement.warm, warmup_runs=measurement.warmup_runs,
        **parts,
        throughput_images_per_s=measurement.queued_images_per_s, conditions=conditions,
        sustained=None if measurement.sustained is None else measurement.sustained.to_dict(), **about,
    )  # fmt: skip
