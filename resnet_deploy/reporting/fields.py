"""The parts of a report's rows and of its description, typed: what their JSON must and may hold.

A field without a default must be there; the others may be missing or null, as they are in reports of earlier versions. Names
that are not listed here may hold anything. A latency is a finite number above 0; other figures may be spelled `nan` or `inf`.
"""

from __future__ import annotations

from dataclasses import dataclass, make_dataclass
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

from msgspec import Meta

from resnet_deploy._figures import Figure, Magnitude, restore_figures
from resnet_deploy.parity.confidence import unpack
from resnet_deploy.parity.metrics import ParityReport

Batch = Annotated[int, Meta(ge=1, lt=1 << 31)]
Count = Annotated[int, Meta(ge=0, lt=1 << 53)]
Pixels = Annotated[int, Meta(ge=1, lt=1 << 31)]
Seconds = Annotated[float, Meta(ge=1e-9, le=1e9)]
Duration = Annotated[float, Meta(ge=0, le=1e9)]
Channels = Annotated[list[float], Meta(min_length=3, max_length=3)]


@dataclass(frozen=True, kw_only=True)
class _Spread:
    """The further percentiles of a time, seconds."""

    p90: Duration | None = None
    p99: Duration | None = None
    mean: Duration | None = None
    iqr: Duration | None = None

    def _check(self, p50: float | None) -> None:
        known = [value for value in (p50, self.p90, self.p99) if value is not None]
        if known != sorted(known):
            raise ValueError(f"p50, p90 and p99 are {p50}, {self.p90} and {self.p99}, which cannot be")


@dataclass(frozen=True, kw_only=True)
class StageJson(_Spread):
    """A part of a latency: a copy may take no time."""

    p50: Duration | None = None

    def __post_init__(self) -> None:
        self._check(self.p50)


@dataclass(frozen=True, kw_only=True)
class LatencyJson(_Spread):
    """Of an inference: it takes some time."""

    p50: Seconds

    def __post_init__(self) -> None:
        self._check(self.p50)


def _check_parity(parity: ParityReport) -> None:
    restore_figures(parity)
    for text in (parity.outcomes or {}).values():
        unpack(text, parity.images or 0)


if TYPE_CHECKING:
    ParityJson = ParityReport
else:  # its fields, any of which may be missing
    ParityJson = make_dataclass(
        "ParityJson",
        [(name, kind | None, None) for name, kind in get_type_hints(ParityReport, include_extras=True).items()],
        namespace={"__post_init__": _check_parity}, frozen=True, kw_only=True,
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RooflineJson:
    """What the device can do at most, and how much of it was reached."""

    device: str | None = None
    source: str | None = None
    bound: str | None = None
    compute_s: Magnitude | None = None
    memory_s: Magnitude | None = None
    device_images_per_s: Magnitude | None = None
    host_images_per_s: Magnitude | None = None
    reached_percent: Magnitude | None = None
    device_reached_percent: Magnitude | None = None


@dataclass(frozen=True, kw_only=True)
class CpuJson:
    """Of a CPU, during a measurement."""

    clock_hz: dict[str, Any] | None = None


@dataclass(frozen=True, kw_only=True)
class GpuJson:
    """Of a GPU, before, during and after a measurement."""

    before: dict[str, Any] | None = None
    during: dict[str, Any] | None = None
    after: dict[str, Any] | None = None
    throttled: dict[str, Figure] | None = None


@dataclass(frozen=True, kw_only=True)
class ConditionsJson:
    """What the machine did meanwhile."""

    cpu: CpuJson | None = None
    gpu: GpuJson | None = None
    warnings: list[str] | None = None


@dataclass(frozen=True, kw_only=True)
class DeviceJson:
    """A GPU of the machine."""

    name: str | None = None
    memory_bytes: Magnitude | None = None
    compute_capability: str | None = None


@dataclass(frozen=True, kw_only=True)
class MachineJson:
    """What it was measured on."""

    cpu: str | None = None
    cores: Count | None = None
    memory_bytes: Magnitude | None = None
    load_1min: Magnitude | None = None
    gpus: list[DeviceJson] | None = None
    os: str | None = None
    python: str | None = None
    packages: dict[str, str | None] | None = None


@dataclass(frozen=True, kw_only=True)
class TensorJson:
    """An input or output; a text in its shape is a dynamic dimension."""

    name: str | None = None
    dtype: str | None = None
    shape: list[Count | str] | None = None


@dataclass(frozen=True, kw_only=True)
class WeightsJson:
    """Where they are from."""

    source: str | None = None
    sha256: str | None = None


@dataclass(frozen=True, kw_only=True)
class HeadJson:
    """What the network answers."""

    kind: str | None = None
    k: Count | None = None


@dataclass(frozen=True, kw_only=True)
class PreprocessingJson:
    """Resize and crop in pixels, mean and deviation of each channel in [0, 1]."""

    resize: Pixels | None = None
    crop: Pixels | None = None
    interpolation: str | None = None
    mean: Channels | None = None
    std: Channels | None = None


@dataclass(frozen=True, kw_only=True)
class ModelJson:
    """What was measured: the manifest's description of the network."""

    architecture: str | None = None
    family: str | None = None
    num_classes: Count | None = None
    parameters: Magnitude | None = None
    macs: Magnitude | None = None
    weights: WeightsJson | None = None
    head: HeadJson | None = None
    input: TensorJson | None = None
    outputs: list[TensorJson] | None = None
    preprocessing: PreprocessingJson | None = None
    preprocessing_source: dict[str, str] | None = None
    request: dict[str, Any] | None = None
