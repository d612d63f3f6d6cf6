"""The JSON of a report, read: whatever has it can trust its types and figures. The parts of its rows are in `fields`."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from msgspec import Meta

from resnet_deploy._figures import Figure, Magnitude
from resnet_deploy._json import decode
from resnet_deploy.parity.gates import GateCheck
from resnet_deploy.reporting.fields import (
    Batch,
    ConditionsJson,
    Count,
    LatencyJson,
    MachineJson,
    ModelJson,
    ParityJson,
    RooflineJson,
    Seconds,
    StageJson,
)
from resnet_deploy.reporting.rows import key_of_row

MAX_BYTES = 64 << 20  # of a report: one with 600 samples of each of 1,000 rows has 10 MB
_DEEPEST = 24

Name = Annotated[str, Meta(min_length=1, max_length=1000)]
Rate = Annotated[float, Meta(ge=0, le=1e18)]
Ratio = Annotated[float, Meta(gt=0, le=1e18)]
Gate = Literal["pass", "fail"]


@dataclass(frozen=True, kw_only=True)
class CandidateJson:
    """What was measured, or should have been."""

    backend: Name
    device: Name
    precision: Name


@dataclass(frozen=True, kw_only=True)
class JudgedJson(CandidateJson):
    """What was measured, with the verdict on its answers."""

    parity: ParityJson | None = None
    parity_data: str | None = None
    judged_on: str | None = None
    gate: Gate | None = None
    failures: list[str] | None = None
    gates: list[GateCheck] | None = None
    artifact: str | None = None
    size_bytes: Count | None = None
    threads: Annotated[int, Meta(ge=1, lt=1 << 31)] | None = None
    measured: str | None = None
    conditions: ConditionsJson | None = None

    def __post_init__(self) -> None:
        if self.gate == "pass" and self.failures:
            raise ValueError(f"the gate passed and yet failed: {self.failures[0]}")


@dataclass(frozen=True, kw_only=True)
class ResultJson(JudgedJson):
    """A row of the sweep."""

    batch: Batch
    latency_s: LatencyJson
    device_latency_s: StageJson | None = None
    enqueue_latency_s: StageJson | None = None
    h2d_latency_s: StageJson | None = None
    compute_latency_s: StageJson | None = None
    d2h_latency_s: StageJson | None = None
    host_latency_s: StageJson | None = None
    images_per_s: Rate | None = None
    throughput_images_per_s: Rate | None = None
    sustained: dict[str, Any] | None = None
    speedup: Ratio | None = None
    samples: Count | None = None
    noisy: bool | None = None
    warm: bool | None = None
    partial: bool | None = None
    roofline: RooflineJson | None = None
    settings: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class ScenarioJson(JudgedJson):
    """A run of LoadGen's."""

    scenario: str | None = None
    valid: bool | None = None
    reason: str | None = None
    error: str | None = None
    notes: list[str] | None = None
    metrics: dict[str, Figure | None] | None = None


@dataclass(frozen=True, kw_only=True)
class UnmeasuredJson(CandidateJson):
    """A row without a figure."""

    batch: Batch | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class LayerJson:
    """One of a profile."""

    name: str
    kind: str | None = None
    precision: str | None = None
    time_s: Magnitude | None = None
    share: Magnitude | None = None
    onnx: list[str] | str | None = None


@dataclass(frozen=True, kw_only=True)
class ProfileJson:
    """Layers of one candidate."""

    backend: Name
    precision: Name
    device: str | None = None
    batch: Batch | None = None
    layers: list[LayerJson] | None = None
    total_s: Magnitude | None = None
    profiled_s: Magnitude | None = None
    latency_s: Magnitude | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class TrtexecFigureJson:
    """A figure of ours beside trtexec's."""

    name: str
    unit: str | None = None
    ours: Figure | None = None
    trtexec: Figure | None = None
    difference: Figure | None = None


@dataclass(frozen=True, kw_only=True)
class TrtexecJson:
    """trtexec's word on one plan."""

    backend: str | None = None
    precision: str | None = None
    batch: Batch | None = None
    command: str | None = None
    figures: list[TrtexecFigureJson] | None = None
    ours_s: Figure | None = None
    trtexec_s: Figure | None = None
    difference: Figure | None = None
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class AdviceJson:
    """What the results say, in words."""

    severity: str | None = None
    text: str | None = None


@dataclass(frozen=True, kw_only=True)
class DecisionJson:
    """What to deploy, or why nothing."""

    kind: str | None = None
    text: str


@dataclass(frozen=True, kw_only=True)
class CalibrationJson:
    """Where INT8's ranges are from."""

    source: str | None = None
    method: str | None = None


@dataclass(frozen=True, kw_only=True)
class SamplesJson:
    """Raw times of a row, seconds, in the order in which they were taken."""

    host_s: list[Seconds] | None = None


@dataclass(frozen=True, kw_only=True)
class ReportJson:
    """The whole of a report."""

    machine: MachineJson
    model: ModelJson
    results: Annotated[list[ResultJson], Meta(max_length=10_000)]
    warnings: list[str] | None = None
    scenarios: list[ScenarioJson] | None = None
    unmeasured: list[UnmeasuredJson] | None = None
    verdicts: list[AdviceJson] | None = None
    profiles: list[ProfileJson] | None = None
    trtexec: list[TrtexecJson] | None = None
    calibration: CalibrationJson | None = None
    commands: list[str] | None = None
    samples: dict[str, SamplesJson] | None = None
    interrupted: bool | None = None
    decision: DecisionJson | None = None

    def __post_init__(self) -> None:
        keys = Counter(key_of_row(row.backend, row.device, row.precision, row.batch) for row in self.results)
        if twice := next((key for key, count in keys.items() if count > 1), None):
            raise ValueError(f"results has the row {twice[:200]} more than once")


def read_report(data: bytes) -> dict[str, Any]:
    """Read the JSON of a report.

    Raises:
        ValueError: it is none; the message says what is wrong, in which field.
    """
    decode(data, ReportJson)
    content = decode(data, dict[str, Any])
    if _too_deep(content, _DEEPEST):
        raise ValueError(f"it is nested more than {_DEEPEST} deep")
    return content


def _too_deep(value: Any, left: int) -> bool:
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return left < 0 or any(_too_deep(part, left - 1) for part in parts)
