"""Ranges for a bundle's files: from a file, from the bundle where it has those of the same images, or from images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resnet_deploy.bundle.manifest import CalibrationFile, CalibrationUse
from resnet_deploy.bundle.names import CALIBRATION, FP32
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.bundle.transaction import Transaction
from resnet_deploy.errors import CalibrationError
from resnet_deploy.pipeline.lowering_options import LoweringOptions
from resnet_deploy.specs import Progress

if TYPE_CHECKING:
    from resnet_deploy.data.dataset import Dataset
    from resnet_deploy.graph.graph import Graph
    from resnet_deploy.precision.calibrate import Calibration

HELD_OUT = 64  # images beside those that are calibrated on, on which `auto` judges the methods


def calibrated(bundle: Bundle, options: LoweringOptions, progress: Progress) -> tuple[Graph, Calibration]:
    """The FP32 graph and its ranges; nothing is written."""
    return fp32_graph(bundle, options.equalize), calibrate(bundle, options, progress)


def calibration_use(calibration: Calibration) -> CalibrationUse:
    """What a file that is quantized by a calibration has seen."""
    return CalibrationUse(method=calibration.method, data=calibration.data, key=calibration.key, images=calibration.images)


def is_kept(bundle: Bundle, calibration: Calibration) -> bool:
    """Whether the bundle keeps this very calibration."""
    entry = bundle.manifest.artifacts.get(CALIBRATION)
    return isinstance(entry, CalibrationFile) and entry.key == calibration.key


def keep_calibration(change: Transaction, calibration: Calibration) -> None:
    """Stage a calibration as the one that the bundle keeps."""
    calibration.save(change.stage(CALIBRATION))
    change.add(
        CALIBRATION, CalibrationFile, method=calibration.method, images=len(calibration.images), data=calibration.data,
        key=calibration.key, warnings=tuple(calibration.warnings),
    )  # fmt: skip


def is_file(source: str | Path) -> bool:
    """Whether a source of calibration is a calibration.json, and no images."""
    return Path(source).suffix == ".json" and Path(source).is_file()


def fp32_graph(bundle: Bundle, equalized: bool) -> Graph:
    """The FP32 graph, as it was exported or equalized."""
    from resnet_deploy.graph.graph import Graph
    from resnet_deploy.precision.adjust import equalize

    graph = Graph.read(bundle.artifact(FP32))
    return equalize(graph) if equalized else graph


def calibrate(bundle: Bundle, options: LoweringOptions, progress: Progress) -> Calibration:
    """From a file, from the bundle where it is of the same data and method, or from images."""
    from resnet_deploy.precision.calibrate import Calibration, digest_of

    source = options.calibration
    entry = bundle.manifest.artifacts.get(CALIBRATION)
    kept = entry if isinstance(entry, CalibrationFile) and os.path.lexists(bundle.path / CALIBRATION) else None
    if source is None:
        if kept is None:
            raise CalibrationError(
                f"INT8 and FP8 need images to calibrate on: --calibration DATA"
                f"{'' if entry is None else f' ({bundle.path / CALIBRATION} is gone; `{entry.command}` made it)'}"
            )
        return Calibration.load(bundle.artifact(CALIBRATION))
    if is_file(source):
        calibration = Calibration.load(Path(source))
        calibration.require(fp32_graph(bundle, options.equalize), ())  # FP16's check of overflows needs no tensor by name
        return calibration
    opened = OpenedBundle(bundle)
    # `auto` judges on the rest.
    dataset = opened.data(source, limit=options.calibration_images + HELD_OUT, labels_needed=False)
    opened.keep_names(dataset)
    wish = f"{dataset.source} {dataset.sha256[:16]} {options.calibration_method}"
    if kept is not None and kept.data == wish:
        known = Calibration.load(bundle.artifact(CALIBRATION))
        if known.graph == digest_of(fp32_graph(bundle, options.equalize)):
            return known
    return _calibrate(bundle, opened, dataset, options, wish, progress)


def _calibrate(
    bundle: Bundle, opened: OpenedBundle, dataset: Dataset, options: LoweringOptions, name: str, progress: Progress
) -> Calibration:
    from resnet_deploy.precision.auto import best_method
    from resnet_deploy.precision.calibrate import observe

    graph = fp32_graph(bundle, options.equalize)
    total, every = len(dataset), max(2, len(dataset) // HELD_OUT)
    auto = options.calibration_method == "auto" and total >= 2
    held: list[NDArray[Any]] = []

    def batches(size: int) -> Iterator[NDArray[Any]]:
        """All but the held-out images: every so many, spread over the whole."""
        position = 0
        for part in dataset.batches(size, lambda done: progress("calibrate", done, total)):
            numbers = np.arange(position, position + len(part.images))
            apart = (numbers % every == every - 1) if auto else np.zeros(len(numbers), bool)
            position += len(numbers)
            held.extend(part.images[apart])
            if not apart.all():
                yield part.images[~apart]

    observer = observe(graph, batches)
    method = options.calibration_method
    if auto:
        method = best_method(observer, np.stack(held), lambda what: progress(what, 0, None))
        # What the choice was judged on may widen the ranges of the method that was chosen.
        for start in range(0, len(held), size := observer.batch_size(held[0].shape)):
            observer.add(np.stack(held[start : start + size]))
    calibration = observer.calibration(method, name)
    if dataset.skipped:
        calibration = replace(
            calibration, warnings=(*calibration.warnings, f"{len(dataset.skipped)} calibration images were skipped")
        )
    return calibration


def check_overflow(calibration: Calibration, keep: Iterable[str]) -> None:
    """Raise CalibrationError where a tensor's values leave FP16's range; layers that are kept in FP32 aside."""
    from resnet_deploy.precision.placement import matches

    for name, largest in calibration.overflows().items():
        if not matches(name, keep):
            raise CalibrationError(
                f"{name} reaches {largest:.3g} on the calibration images, and FP16 ends at 65,504: use bf16, or leave the "
                f"layer in FP32 with --keep {name.rpartition('.')[0] or name}"
            )
