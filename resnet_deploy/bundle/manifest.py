"""manifest.json as typed, frozen objects: what is read, checked, written and published as a schema is this one definition."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar

from msgspec import Meta, field

from resnet_deploy.bundle.fields import (
    Count,
    Facts,
    FileName,
    ImageDigest,
    Key,
    LoweringSettings,
    Name,
    Origins,
    Positive,
    ProfileText,
    Seconds,
    Sha256,
    Source,
    Text,
    Time,
)
from resnet_deploy.bundle.records import CeilingRecord, MeasurementRecord, ParityRecord, Record, ScenarioRecord
from resnet_deploy.engine.plan import Origin
from resnet_deploy.engine.report import PlanReport
from resnet_deploy.specs import Head, InputFormat, Precision, Preprocessing, TensorSpec

SCHEMA_VERSION: Literal[2] = 2

# --- the model ---


class Request(Record, frozen=True, kw_only=True):
    """What was asked of `export`: equal requests give equal files.

    Attributes:
        weights: their digest, one for each member of an ensemble; None for random weights.
        num_classes, new_head, head, l2_normalize, input: as in `ExportOptions`.
        image_size, resize, mean, std, max_batch, opset: likewise.
    """

    weights: Origins | None
    num_classes: Positive | None
    new_head: bool
    head: Name
    l2_normalize: bool
    input: InputFormat
    image_size: Positive | None
    resize: Positive | None
    mean: tuple[float, float, float] | None
    std: tuple[float, float, float] | None
    max_batch: Positive
    opset: Annotated[int, Meta(ge=1, le=1000)]


class WeightsOrigin(Record, frozen=True, kw_only=True):
    """Where the weights are from.

    Attributes:
        source: what the user called them, or `random`.
        sha256: of the file; of an ensemble, those of its members joined by `+`.
        key: of the network in a checkpoint that holds several.
        new_head: whether the classifier is a fresh one.
        seed: of random values.
        top1_accuracy: a fraction, as the publisher, the checkpoint or the training's own log says.
        reported_by: which of these.
        members: an ensemble's.
    """

    source: Text
    sha256: Origins | None = None
    key: Text | None = None
    new_head: bool = False
    seed: int | None = None
    top1_accuracy: Annotated[float, Meta(ge=0, le=1)] | None = None
    reported_by: Text | None = None
    members: tuple[WeightsOrigin, ...] = ()


class ModelDescription(Record, frozen=True, kw_only=True):
    """What the files of a bundle are a model of.

    Attributes:
        architecture, family, paper: of the table of architectures.
        request: what was asked of `export`.
        num_classes, class_names: of the classifier; names by index, None where nobody knows them.
        weights: where they are from.
        head, input_format: what comes out, and what goes in.
        preprocessing: from an image to the input.
        preprocessing_source: where each part of it is from: checkpoint, option or assumed.
        input, outputs: names, dtypes and shapes.
        parameters: learned values.
        macs: multiply-accumulates of one image.
    """

    architecture: Name
    request: Request
    family: Text
    paper: Text | None
    num_classes: Positive
    class_names: tuple[Name, ...] | None
    weights: WeightsOrigin
    head: Head
    input_format: InputFormat
    preprocessing: Preprocessing
    preprocessing_source: dict[str, Source] = field(default_factory=dict)
    input: TensorSpec
    outputs: Annotated[tuple[TensorSpec, ...], Meta(min_length=1)]
    parameters: Count
    macs: Count

    def __post_init__(self) -> None:
        if self.class_names is not None and len(self.class_names) != self.num_classes:
            raise ValueError(f"class_names has {len(self.class_names)} names for {self.num_classes} classes")


# --- files ---


class Artifact(Record, frozen=True, kw_only=True, tag_field="kind"):
    """A file of the bundle.

    Attributes:
        sha256: of its bytes.
        size_bytes: its size.
        created: when, in UTC.
        command: that made it.
        packages: versions of those that made it, by name.
    """

    sha256: Sha256
    size_bytes: Count
    created: Time
    command: Text
    packages: dict[str, Text]

    @property
    def notes(self) -> tuple[str, ...]:
        """Warnings that were given when it was made."""
        return tuple(getattr(self, "warnings", ()))


class WeightsFile(Artifact, frozen=True, kw_only=True, tag="weights"):
    """What the eager reference is rebuilt from. made_from: the digest of the checkpoint."""

    made_from: Origins | None


class Check(Record, frozen=True, kw_only=True):
    """An export against eager PyTorch at one batch size, on random images.

    Attributes:
        batch: images.
        max_abs_error: over every element of every output.
        max_rel_error: the same over the largest magnitude of eager's output.
        cosine_min: the smallest of any image.
    """

    batch: Positive
    max_abs_error: Seconds
    max_rel_error: Seconds
    cosine_min: float


class CalibrationUse(Record, frozen=True, kw_only=True):
    """What a quantized file was calibrated on.

    Attributes:
        method: how ranges were chosen: max, percentile:P, entropy or mse.
        data: what the user called the images.
        key: of the ranges.
        images: digests, those that `auto` held back too: the file is never judged on them.
    """

    method: Name
    data: Text
    key: Key
    images: tuple[ImageDigest, ...]


class GraphFile(Artifact, frozen=True, kw_only=True, tag="onnx"):
    """An ONNX file.

    Attributes:
        precision: that it computes in.
        made_from: the digest of the weights (FP32) or of the FP32 graph.
        opset: of ONNX.
        checks: against eager, of the FP32 graph.
        settings: options that it was made with, and can be made with again.
        calibration: of a quantized file.
        key: of all that it depends on.
        quantized_layers, quantized_tensors: how many convolutions, and activations, are quantized.
    """

    precision: Precision
    made_from: Sha256 | None = None
    opset: Positive | None = None
    checks: tuple[Check, ...] = ()
    settings: LoweringSettings = field(default_factory=LoweringSettings)
    calibration: CalibrationUse | None = None
    key: Key | None = None
    quantized_layers: Count | None = None
    quantized_tensors: Count | None = None


class CalibrationFile(Artifact, frozen=True, kw_only=True, tag="calibration"):
    """Ranges of tensors.

    Attributes:
        method: how they were chosen: max, percentile:P, entropy or mse.
        images: how many were seen.
        data: what the user called them.
        key: of the ranges.
        warnings: what makes the ranges unsafe.
    """

    method: Name
    images: Count
    data: Text
    key: Key
    warnings: tuple[Text, ...] = ()


class PlanFile(Artifact, frozen=True, kw_only=True, tag="plan"):
    """A TensorRT plan.

    Attributes:
        precision: of its graph.
        made_from: the digest of its graph.
        key: of all that it depends on.
        origin: where it was built, and for what.
        profiles: optimization profiles, as in 1:8:64.
        flags: options of the build.
        builder_s: how long the build took, seconds.
        report: its layers, read back from the engine.
        warnings: what the build said.
    """

    precision: Precision
    made_from: Sha256
    key: Key
    origin: Origin
    profiles: Annotated[tuple[ProfileText, ...], Meta(min_length=1)]
    flags: Facts
    builder_s: Seconds
    report: PlanReport
    warnings: tuple[Text, ...] = ()


class TimingCache(Artifact, frozen=True, kw_only=True, tag="timing_cache"):
    """Times of kernels, for the next build."""

    origin: Origin


class RuntimeCache(Artifact, frozen=True, kw_only=True, tag="runtime_cache"):
    """Kernels that TensorRT-RTX compiled. origin: the machine. made_from: the digest of the plan."""

    origin: Origin
    made_from: Sha256


class SamplesFile(Artifact, frozen=True, kw_only=True, tag="samples"):
    """Raw samples by the key of their measurement."""


class ProfilesFile(Artifact, frozen=True, kw_only=True, tag="profiles"):
    """What layers took."""


class ReportFile(Artifact, frozen=True, kw_only=True, tag="report"):
    """The last run of `bench`."""


class LoadGenLog(Artifact, frozen=True, kw_only=True, tag="loadgen_log"):
    """A log of MLPerf's LoadGen. key: of its scenario's record."""

    key: Key


Cache = TimingCache | RuntimeCache
File = WeightsFile | GraphFile | CalibrationFile | PlanFile | Cache | SamplesFile | ProfilesFile | ReportFile | LoadGenLog


# --- the whole ---


class Manifest(Record, frozen=True, kw_only=True):
    """What a bundle holds.

    Attributes:
        schema_version: of this format.
        created: when, in UTC.
        model: what the files are a model of.
        artifacts: files by name.
        parity, measurements, scenarios, roofs: results by a key of all that they depend on.
        tuning: the last run of `tune`.
    """

    schema_version: Literal[2] = SCHEMA_VERSION
    created: Time
    model: ModelDescription
    artifacts: dict[FileName, File] = field(default_factory=dict)
    parity: dict[Key, ParityRecord] = field(default_factory=dict)
    measurements: dict[Key, MeasurementRecord] = field(default_factory=dict)
    scenarios: dict[Key, ScenarioRecord] = field(default_factory=dict)
    roofs: dict[Key, CeilingRecord] = field(default_factory=dict)
    tuning: Facts | None = None

    def files(self, kind: type[F]) -> dict[str, F]:
        """Artifacts of one kind by name."""
        return {name: entry for name, entry in self.artifacts.items() if isinstance(entry, kind)}

    @property
    def digests(self) -> frozenset[str]:
        """Of every file."""
        return frozenset(entry.sha256 for entry in self.artifacts.values())


F = TypeVar("F", bound=Artifact)
