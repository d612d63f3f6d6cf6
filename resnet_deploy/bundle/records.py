"""What a bundle records of its files: verdicts, measurements, scenarios and ceilings, as typed, frozen objects."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct, field

from resnet_deploy.bundle.fields import Count, Facts, FileName, Key, Latency, Name, Positive, Seconds, Sha256, Text, Time
from resnet_deploy.parity.metrics import ParityReport


class Record(Struct, frozen=True, kw_only=True):
    """What is recorded of one thing; unknown fields are left out when it is read."""


class SkippedImage(Record, frozen=True, kw_only=True):
    """An image that could not be read.

    Attributes:
        name: of its file, or its number.
        reason: in words.
    """

    name: Text
    reason: Text


class JudgedData(Record, frozen=True, kw_only=True):
    """The images of a verdict.

    Attributes:
        source: what the user called them.
        sha256: of the data set.
        crops: views of each image.
        images: how many were judged.
        calibrated_on: how many were left out since the candidate was calibrated on them.
        skipped: those that could not be read.
        notes: what was assumed of the labels.
        judged_on: identifies the images that were judged: equal keys mean the same images in the same order.
    """

    source: Text
    sha256: Sha256
    crops: Positive
    images: Positive
    calibrated_on: Count
    skipped: tuple[SkippedImage, ...] = ()
    notes: tuple[Text, ...] = ()
    judged_on: Key | None = None


class ParityRecord(Record, frozen=True, kw_only=True):
    """A candidate's answers compared with the reference's.

    Attributes:
        candidate: as text, `onnxruntime:int8`.
        made_from, reference: digests of the files that ran.
        data: the images.
        batch: images at a time.
        runtime: what really ran.
        created: when, in UTC.
        report: how the answers differ.
    """

    candidate: Name
    made_from: Sha256
    reference: Sha256 | None = None
    data: JudgedData
    batch: Positive
    runtime: Facts
    created: Time
    report: ParityReport


class MeasurementRecord(Record, frozen=True, kw_only=True):
    """A candidate's figures at one batch size.

    Attributes:
        candidate: as text, `onnxruntime:int8`.
        made_from: the digest of the file that ran.
        batch, threads, runtime, measured, latency_s, device_latency_s, images_per_s: as `benchmarking.report.Result` explains.
        samples, noisy, warm, settings, conditions, partial: likewise.
        enqueue_latency_s, h2d_latency_s, compute_latency_s, d2h_latency_s, host_latency_s: likewise.
        throughput_images_per_s, sustained: likewise.
        warmup_runs: inferences before the first sample.
    """

    candidate: Name
    made_from: Sha256
    batch: Positive
    threads: Count | None
    runtime: Facts
    measured: Time
    latency_s: Latency
    device_latency_s: Latency
    images_per_s: Annotated[float, Meta(gt=0)]
    samples: Count
    noisy: bool
    warm: bool
    warmup_runs: Count
    enqueue_latency_s: Latency | None = None
    h2d_latency_s: Latency | None = None
    compute_latency_s: Latency | None = None
    d2h_latency_s: Latency | None = None
    host_latency_s: Latency | None = None
    throughput_images_per_s: Annotated[float, Meta(gt=0)] | None = None
    sustained: Facts | None = None
    conditions: Facts | None = None
    settings: Facts = field(default_factory=dict)
    partial: bool = False


class ScenarioRecord(Record, frozen=True, kw_only=True):
    """One of MLPerf's scenarios, as LoadGen judged it.

    Attributes:
        candidate: as text, `onnxruntime:int8`.
        made_from: the digest of the file that ran.
        scenario, valid, reason, notes, metrics, log_files: as `benchmarking.report.ScenarioResult` explains.
        threads, runtime, measured, conditions, error: likewise.
    """

    candidate: Name
    made_from: Sha256 | None = None
    scenario: Literal["single-stream", "multi-stream", "server", "offline"]
    valid: bool
    reason: Text
    notes: tuple[Text, ...]
    metrics: dict[str, float | int]
    log_files: tuple[FileName, ...]
    threads: Count | None
    runtime: Facts
    measured: Time
    conditions: Facts | None = None
    error: Text | None = None


class CeilingRecord(Record, frozen=True, kw_only=True):
    """What a device can do at most, measured.

    Attributes:
        name: of the device.
        flop_s: operations a second by precision.
        memory_bytes_s: bytes a second to and from its own memory.
        host_bytes_s: bytes a second from the host's memory; None for a CPU.
        source: `measured`.
        names: what drivers call it.
    """

    name: Text
    flop_s: dict[str, Seconds]
    memory_bytes_s: Seconds
    host_bytes_s: Seconds | None
    source: Text
    names: tuple[Text, ...] = ()
