"""Many images through a bundle's model into a Parquet file: decoding on all cores while the model runs, or on a Ray cluster."""

from __future__ import annotations

import csv
import time
from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from typing import Any

from resnet_deploy import _deps, _json
from resnet_deploy._arguments import takes
from resnet_deploy._deprecated import renamed
from resnet_deploy._machine import cores
from resnet_deploy._text import text_of
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.errors import DataError
from resnet_deploy.serving.embedding.decoders import Decoders
from resnet_deploy.serving.embedding.job import Embedding, EmbedOptions, Job, Result, columns_of, outputs_of
from resnet_deploy.serving.embedding.listing import Listing, list_images
from resnet_deploy.serving.embedding.output import Output
from resnet_deploy.serving.embedding.part_writer import PartWriter
from resnet_deploy.serving.embedding.parts import SpoiledPart
from resnet_deploy.serving.embedding.request import EmbedRequest, ImageSet, PixelSettings, Summary
from resnet_deploy.serving.embedding.tables import Answers, check_outputs
from resnet_deploy.specs import Progress, silent

_ATTEMPTS = 3  # at an output whose parts a disk spoils while it is made


@dataclass(frozen=True)
class EmbedArguments(EmbedOptions):
    """The arguments of `embed`, which describes them."""

    bundle: Bundle | str | Path
    images: str | Path
    output: str | Path
    _: KW_ONLY
    overwrite: bool = False
    progress: Progress = silent


@renamed(checkpoint_s="checkpoint")
@takes(EmbedArguments)
def embed(call: EmbedArguments) -> Embedding:
    """Run a bundle's model over images, and write path and answers to a Parquet file, in the images' order.

    A run that was killed goes on where it was; one that is complete is not repeated.

    Args:
        bundle: a bundle, or its folder.
        images: a folder, a glob, or a file with a path a line (or paths that end in NUL).
        output: the Parquet file. Bad images are in OUTPUT.bad.csv: path and reason.
        overwrite: replace what another request made.
        progress: told what is being done.

    Returns:
        What the table has, and how it was made.

    Raises:
        UsageError, DataError, BundleError, IntegrityError: what cannot be meant, read or trusted.
        OutputError: the file is another run's.
        UnavailableError: a device, a package or a Ray cluster is missing.
        StorageError: the disk is full; another run goes on from there.
    """
    start_s, settings, progress = time.perf_counter(), call.part(EmbedOptions), call.progress
    _deps.require("pyarrow", extra="parquet")
    opened = OpenedBundle(call.bundle if isinstance(call.bundle, Bundle) else Bundle.open(call.bundle))
    check_outputs(outputs_of(opened))
    opened.bundle.artifact(opened.file(settings.candidate))
    with Output(Path(call.output)) as target:
        progress("list", 0, None)
        listing = list_images(call.images, target.path.parent)
        with listing.file:
            progress("check", 0, None)
            summary = target.open(_request(opened, settings, listing), overwrite=call.overwrite)
            before, runtime = listing.count, dict[str, Any]()
            if summary is None:
                job = Job(opened=opened, options=settings, listing=listing, missing=[], scratch=target.path.parent)
                summary, before, runtime = _finish(job, target, progress)
        if summary.bad:
            _judge(target.bad_path, summary, strict=settings.strict)
    return Embedding(
        output=target.path, images=summary.images, bad=summary.bad, before=before, columns=columns_of(opened),
        bad_table=target.bad_path if summary.bad else None, backend=str(settings.candidate), runtime=runtime,
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


def _request(opened: OpenedBundle, settings: EmbedOptions, listing: Listing) -> EmbedRequest:
    """What the output depends on: equal requests, equal outputs."""
    described, candidate = _json.plain(opened.description), settings.candidate
    return EmbedRequest(
        architecture=described["architecture"],
        head=described["request"]["head"],
        file=opened.made_from(candidate),
        backend=str(candidate),
        images=ImageSet(count=listing.count, sha256=listing.sha256),
        preprocessing=PixelSettings.of(
            opened.preprocessing, input_format=described["input_format"], max_pixels=settings.max_pixels
        ),
        packages={name: _deps.version(name) for name in ("pillow", "numpy", candidate.row.package)},
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
        from resnet_deploy.serving.embedding.ray import ray_answers as results
    else:
        results = local_results
    runtime: dict[str, Any] = {}
    done = total - sum(stop - start for start, stop in job.missing)
    progress("embed", done, total)
    outputs, class_names = outputs_of(job.opened), job.opened.description.class_names
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
        job.opened.backend(job.options.candidate, job.options.threads) as backend,
    ):
        describe(backend.describe() | {"workers": workers})
        for part in decoders.decoded(job.listing.batches(job.missing, job.batch)):
            yield part.start, part.paths, part.reasons, backend.infer_any(part.images)


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
