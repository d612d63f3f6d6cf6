"""What a run of `embed` works on, and what it ends in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resnet_deploy import limits
from resnet_deploy.backends.base import Outputs
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.data.preprocessing import MAX_PIXELS, Transform
from resnet_deploy.errors import UsageError
from resnet_deploy.serving.embedding.decoding import Decoder
from resnet_deploy.serving.embedding.listing import Listing
from resnet_deploy.serving.embedding.tables import LABELS
from resnet_deploy.specs import MAX_BATCH, OptionGroup, TensorSpec, to_dict


@dataclass(frozen=True, kw_only=True)
class EmbedOptions(OptionGroup):
    """How images are embedded. The names and defaults are those of `resnet-deploy embed`.

    Attributes:
        backend: what runs the model, as in `onnxruntime:cuda`.
        precision: of the file that is run, where `backend` names none.
        batch: images at a time, at most what the bundle was checked for.
        threads: CPU threads of the backend; all cores where None.
        workers: processes that decode images; one for each core where None.
        max_megapixels: larger images are listed as bad, without being read.
        checkpoint: how much work a run that is killed may lose, in seconds or as a text with a unit (30s).
        strict: fail at the first bad image.
        ray: run on a Ray cluster: that at ray_address, at RAY_ADDRESS, or else one that is started here.
        ray_address: of the cluster, as in `ray://HOST:10001`.
    """

    backend: str = "onnxruntime"
    precision: str | None = None
    batch: int = MAX_BATCH
    threads: int | None = None
    workers: int | None = None
    max_megapixels: float = MAX_PIXELS / 1e6
    checkpoint: float | str = 30.0
    strict: bool = False
    ray: bool = False
    ray_address: str | None = None

    def __post_init__(self) -> None:
        for name in ("batch", "threads", "workers", "max_megapixels"):
            limits.check_option(name, getattr(self, name))
        _ = self.checkpoint_s
        if self.max_pixels < 1:
            raise UsageError(f"max_megapixels must be at least one pixel; found {self.max_megapixels}")
        if self.ray_address is not None and not self.ray:
            raise UsageError("--ray-address needs --ray")
        if self.ray and self.workers is not None:
            raise UsageError("--workers is for a run on this machine; a Ray cluster decodes on all of its cores")
        _ = self.candidate
        super().__post_init__()

    @property
    def checkpoint_s(self) -> float:
        """`checkpoint` in seconds."""
        return limits.seconds("checkpoint", self.checkpoint)

    @property
    def candidate(self) -> Candidate:
        candidate = Candidate.parse(self.backend)
        if self.precision is None or self.precision == candidate.precision.value:
            return candidate
        return Candidate.parse(f"{self.backend}{',' if ':' in self.backend else ':'}{self.precision}")

    @property
    def max_pixels(self) -> int:
        return int(self.max_megapixels * 1e6)


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """A finished output.

    Attributes:
        output: the Parquet file.
        images: all that were listed.
        bad: of them, those in bad_table.
        before: done by earlier runs.
        bad_table: the CSV file of bad images with the reason of each; None where there are none.
        columns: name and type in words.
        backend: the candidate that ran.
        runtime: what really ran, empty where nothing had to.
        wall_s: of this run.
        warnings: what was found damaged on disk, and what became of it.
    """

    output: Path
    images: int
    bad: int
    before: int
    bad_table: Path | None
    columns: dict[str, str]
    backend: str
    wall_s: float
    runtime: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def images_per_s(self) -> float:
        return (self.images - self.before) / self.wall_s

    def to_dict(self) -> dict[str, Any]:
        paths = {"output": str(self.output), "bad_table": None if self.bad_table is None else str(self.bad_table)}
        return {**to_dict(self), **paths, "images_per_s": self.images_per_s}


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a run works on.

    Attributes:
        opened: the bundle.
        options: how images are embedded.
        listing: the images.
        missing: ranges of image numbers that are to be done.
        scratch: a folder for unnamed files; that for temporary ones where None.
    """

    opened: OpenedBundle
    options: EmbedOptions
    listing: Listing
    missing: list[tuple[int, int]]
    scratch: Path | None = None

    @property
    def batch(self) -> int:
        return min(self.options.batch, self.opened.max_batch)

    @property
    def decoder(self) -> Decoder:
        most = self.options.max_pixels
        transform = Transform(
            preprocessing=self.opened.preprocessing, input_format=self.opened.description.input_format, max_pixels=most
        )
        return Decoder(transform=transform, max_pixels=most)


# Positions from the first on, paths, reasons, answers.
Result = tuple[int, Sequence[bytes], Sequence["str | None"], Outputs]


def outputs_of(opened: OpenedBundle) -> list[TensorSpec]:
    """The tensors that a row of the table has, a column each."""
    return list(opened.description.outputs)


def columns_of(opened: OpenedBundle) -> dict[str, str]:
    """The columns of the table by name, with their types in words."""
    lists = {spec.name: f"{'int64' if 'int' in spec.dtype else 'float32'} [{spec.shape[1]}]" for spec in outputs_of(opened)}
    named = "topk_indices" in lists and opened.description.class_names is not None
    return {"path": "string", **lists, **({LABELS: lists["topk_indices"].replace("int64", "string")} if named else {})}
