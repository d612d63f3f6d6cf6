"""Many images through a bundle's model into a Parquet file: decoding on all cores while the model runs, or on a Ray cluster."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_deploy import _deps, _json, limits
from resnet_deploy._machine import cores
from resnet_deploy._text import text_of
from resnet_deploy.backends.base import Backend, Candidate, Outputs
from resnet_deploy.bundle.opened import Subject
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.errors import DataError, UsageError
from resnet_deploy.preprocessing import MAX_PIXELS, Transform
from resnet_deploy.serving.decoding import Decoder
from resnet_deploy.serving.listing import Listing, list_images
from resnet_deploy.serving.output import Output
from resnet_deploy.serving.part_writer import PartWriter
from resnet_deploy.serving.parts import SpoiledPart
from resnet_deploy.serving.pipeline import Decoders
from resnet_deploy.serving.request import ImageSet, PixelSettings, Request, Summary
from resnet_deploy.serving.tables import LABELS, Answers, check_outputs
from resnet_deploy.specs import MAX_BATCH, Progress, TensorSpec, silent, to_dict

_ATTEMPTS = 3  # at an output whose parts a disk spoils while it is made


@dataclass(frozen=True, kw_only=True)
class EmbedOptions:
    """How images are embedded. The names and defaults are those of `resnet-deploy embed`.

    backend: as in `verify`; precision: its precision, where `backend` names none. batch: images at a time, at most what the
    bundle was proven for. threads: CPU threads of the backend. workers: processes that decode; all cores where None.
    max_megapixels: of an image; larger ones are bad. checkpoint_s: seconds of work that a kill may cost. strict: a bad image is
    an error. ray: on the Ray cluster at ray_address, at RAY_ADDRESS, or else one that is started here.
    """

    backend: str = "onnxruntime"
    precision: str | None = None
    batch: int = MAX_BATCH
    threads: int | None = None
    workers: int | None = None
    max_megapixels: float = MAX_PIXELS / 1e6
    checkpoint_s: float = 30.0
    strict: bool = False
    ray: bool = False
    ray_address: str | None = None

    def __post_init__(self) -> None:
        for name in ("batch", "threads", "workers", "max_megapixels", "checkpoint_s"):
            limits.check(name, getattr(self, name))
        if self.max_pixels < 1:
            raise UsageError(f"max_megapixels must be a pixel at least; found {self.max_megapixels}")
        if self.ray_address is not None and not self.ray:
            raise UsageError("a Ray address is of use with --ray alone")
        if self.ray and self.workers is not None:
            raise UsageError("--workers are processes of this machine; a Ray cluster decodes on all of its cores")
        _ = self.candidate

    @property
    def candidate(self) -> Candidate:
        found = Candidate.parse(self.backend)
        if self.precision is None or self.precision == found.precision.value:
            return found
        return Candidate.parse(f"{self.backend}{',' if ':' in self.backend else ':'}{self.precision}")

    @property
    def max_pixels(self) -> int:
        return int(self.max_megapixels * 1e6)


@dataclass(frozen=True, kw_only=True)
class Embedding:
    """A finished output. images: all that were listed; bad: of them, those in bad_table; before: done by earlier runs.

    columns: name and type in words. runtime: what really ran, empty where nothing had to. wall_s: of this run. warnings: what
    was found damaged on disk, and what became of it.
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
    """What a run works on. scratch: a folder for unnamed files; that for temporary ones where None."""

    subject: Subject
    options: EmbedOptions
    listing: Listing
    missing: list[tuple[int, int]]
    scratch: Path | None = None

    @property
    def batch(self) -> int:
        return min(self.options.batch, self.subject.max_batch)

    @property
    def decoder(self) -> Decoder:
        most = self.options.max_pixels
        transform = Transform(
            preprocessing=self.subject.preprocessing, input_format=self.subject.description.input_format, max_pixels=most
        )
        return Decoder(transform=transform, max_pixels=most)


# Positions from the first on, paths, reasons, answers.
Result = tuple[int, Sequence[bytes], Sequence["str | None"], Outputs]


def embed(
    bundle: Bundle | str | Path,
    images: str | Path,
    output: str | Path,
    *,
    overwrite: bool = False,
    progress: Progress = silent,
    **options: Any,
) -> Embedding:
    """Run a bundle's model over images, and write path and answers to a Parquet file, in the images' order.

    images: a folder, a glob, or a file with a path a line (or paths that end in NUL). options: the fields of `EmbedOptions`.
    Bad images are in OUTPUT.bad.csv, path and reason. A run that was killed goes on where it was; one that is complete is not
    repeated. overwrite: replace what another request made. Raises UsageError, DataError, BundleError, OutputError,
    IntegrityError, UnavailableError, StorageError.
    """
    start_s, asked = time.perf_counter(), EmbedOptions(**options)
    _deps.require("pyarrow", extra="parquet")
    subject = Subject(bundle if isinstance(bundle, Bundle) else Bundle.open(bundle))
    check_outputs(_outputs(subject))
    subject.bundle.artifact(subject.file(asked.candidate))
    with Output(Path(output)) as target:
        progress("list", 0, None)
        listing = list_images(images, target.path.parent)
        with listing.file:
            progress("check", 0, None)
            summary = target.open(_request(subject, asked, listing), overwrite=overwrite)
            before, runtime = listing.count, dict[str, Any]()
            if summary is None:
                job = Job(subject=subject, options=asked, listing=listing, missing=[], scratch=target.path.parent)
                summary, before, runtime = _finish(job, target, progress)
        if summary.bad:
            _judge(target.bad_path, summary, strict=asked.strict)
    return Embedding(
        output=target.path, images=summary.images, bad=summary.bad, before=before, columns=_columns(subject),
        bad_table=target.bad_path if summary.bad else None, backend=str(asked.candidate), runtime=runtime,
        wall_s=time.perf_counter() - start_s, warnings=target.parts.warnings,
    )  # fmt: skip


def _finish(job: Job, target: Output, progress: Progress) -> tuple[Summary, int, dict[str, Any]]:
    """All that is missing, and then the output: its summary, how many images earlier runs had done, and what ran."""
    before, runtime = None, dict[str, Any]()
    for attempt in range(_ATTEMPTS):
        done = target.parts.ranges()
        before = sum(stop - start for start, stop in done) if before is None else before
        missing = _gaps(done, job.listing.count)
        try:
            if missing:
                runtime |= _run(replace(job, missing=missing), target, progress)
            progress("finish", 0, None)
            return target.finish(), before, runtime
        except SpoiledPart:
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError


def _outputs(subject: Subject) -> list[TensorSpec]:
    return list(subject.description.outputs)


def _columns(subject: Subject) -> dict[str, str]:
    lists = {spec.name: f"{'int64' if 'int' in spec.dtype else 'float32'} [{spec.shape[1]}]" for spec in _outputs(subject)}
    named = "topk_indices" in lists and subject.description.class_names is not None
    return {"path": "string", **lists, **({LABELS: lists["topk_indices"].replace("int64", "string")} if named else {})}


def _request(subject: Subject, asked: EmbedOptions, listing: Listing) -> Request:
    """What the output depends on: equal requests, equal outputs."""
    described, candidate = _json.plain(subject.description), asked.candidate
    package = {"eager": "torch"}.get(candidate.backend, candidate.backend.replace("-", "_"))
    return Request(
        architecture=described["architecture"],
        head=described["request"]["head"],
        file=subject.made_from(candidate),
        backend=str(candidate),
        images=ImageSet(count=listing.count, sha256=listing.sha256),
        preprocessing=PixelSettings.of(
            subject.preprocessing, input_format=described["input_format"], max_pixels=asked.max_pixels
        ),
        packages={name: _deps.version(name) for name in ("pillow", "numpy", package)},
    )


def _gaps(done: list[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    edges = [0, *(edge for part in done for edge in part), count]
    return [(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True) if start < stop]


def _run(job: Job, target: Output, progress: Progress) -> dict[str, Any]:
    """Everything that is missing, part by part; returns what really ran."""
    total, strict = job.listing.count, job.options.strict
    if strict and (bad := target.first_bad()) is not None:
        raise _strict(*bad)
    if job.options.ray:
        from resnet_deploy.serving.cluster import results
    else:
        results = local_results
    runtime: dict[str, Any] = {}
    done = total - sum(stop - start for start, stop in job.missing)
    progress("embed", done, total)
    outputs, class_names = _outputs(job.subject), job.subject.description.class_names
    with PartWriter(target.parts, lambda: Answers(outputs, class_names), job.options.checkpoint_s) as writer:
        for start, paths, reasons, answers in results(job, runtime.update):
            first_bad = writer.add(start, paths, reasons, answers)
            if strict and first_bad is not None:
                raise _strict(text_of(first_bad[0]), first_bad[1])
            done += len(paths)
            progress("embed", done, total)
    return runtime


def local_results(job: Job, describe: Callable[[dict[str, Any]], None]) -> Iterator[Result]:
    """The answers for what is missing, in order. describe: told what really runs."""
    workers = job.options.workers or cores()
    with (
        Decoders(job.decoder, workers=workers, batch=job.batch, scratch=job.scratch) as decoders,
        job.subject.backend(job.options.candidate, job.options.threads) as backend,
    ):
        describe(backend.describe() | {"workers": workers})
        for part in decoders.decoded(job.listing.batches(job.missing, job.batch)):
            yield part.start, part.paths, part.reasons, infer(backend, part.images)


def infer(backend: Backend, images: NDArray[Any]) -> Outputs:
    """A batch's answers; in several inferences where the loaded file takes no more at a time."""
    most = backend.max_batch or len(images)
    if len(images) <= most:
        return backend.infer(images)
    parts = [
        {name: np.array(values) for name, values in backend.infer(images[i : i + most]).items()}
        for i in range(0, len(images), most)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _strict(path: str, reason: str) -> DataError:
    return DataError(f"{path}: {reason}. Remove it, or run without --strict to list it and go on")


def _judge(table: Path, summary: Summary, *, strict: bool) -> None:
    """Raise DataError where bad images are an error, or where there are no others."""
    if not strict and summary.bad < summary.images:
        return
    with table.open(newline="", encoding="utf-8") as file:
        _, (path, reason) = next(rows := csv.reader(file)), next(rows)
    if summary.bad == summary.images:
        raise DataError(f"none of the {summary.images:,} images can be embedded, see {table}; {path}: {reason}")
    raise _strict(path, reason)
