"""The FP32 graph of a bundle in other precisions: calibrated once, written for each target, only where it is missing."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from resnet_deploy.bundle.codec import key_of
from resnet_deploy.bundle.manifest import CalibrationFile, CalibrationUse, GraphFile
from resnet_deploy.bundle.names import CALIBRATION, FP32
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.bundle.transaction import Transaction
from resnet_deploy.errors import CalibrationError
from resnet_deploy.pipeline.calibrate import (
    HELD_OUT,
    calibrate,
    calibration_use,
    check_overflow,
    fp32_graph,
    is_file,
    is_kept,
    keep_calibration,
)
from resnet_deploy.pipeline.lowering_options import LoweringOptions
from resnet_deploy.precisions import Precision
from resnet_deploy.specs import Progress

if TYPE_CHECKING:
    from resnet_deploy.graph.graph import Graph
    from resnet_deploy.precision.calibrate import Calibration
    from resnet_deploy.precision.placement import Placement


@dataclass(frozen=True, kw_only=True)
class _Wish:
    """A file that is to be there. options: those for it; use: what it is to be calibrated on, None where it is not."""

    name: str
    precision: Precision
    target: str
    options: LoweringOptions
    entry: GraphFile | None
    use: CalibrationUse | None

    @property
    def settings(self) -> dict[str, Any]:
        return self.options.settings(self.precision, self.target)


def lower(
    bundle: Bundle,
    options: LoweringOptions,
    progress: Progress,
    *,
    calibration: Calibration | None = None,
    check: Callable[[str, Graph], None] | None = None,
    beside: Callable[[Transaction], None] | None = None,
) -> None:
    """Make the precisions that are missing, are gone, or were made with other options.

    Of a file that is there, what is not given stays as it was made: its calibration, and the layers that `tune` kept.

    Args:
        bundle: with its FP32 graph.
        options: what is to be there.
        progress: told what is being done.
        calibration: ranges that are known already.
        check: given every file by name, as it is about to be written or as it is there; what it raises stops all of it.
        beside: adds to the change in which the files are written.

    Raises:
        UsageError, CalibrationError, DataError, GraphError: as the options say; what was there stays.
    """
    from resnet_deploy.graph.graph import Graph

    if not (files := options.files()):
        return
    equalized = any(options.for_file(_graph_file(bundle, name)).equalize for name in files)
    calibrating = replace(options, equalize=equalized)
    if calibration is None and options.calibration is not None:
        calibration = calibrate(bundle, calibrating, progress)
    wishes = [_wish(bundle, options, calibration, name, *kind) for name, kind in files.items()]
    missing = [wish for wish in wishes if not _is_there(bundle, wish)]
    if calibration is None and any(wish.precision.row.quantized for wish in missing):
        calibration = calibrate(bundle, calibrating, progress)
        for wish in missing:
            _check_same(bundle, wish, calibration)
    for wish in wishes:
        if calibration is not None and wish.precision is Precision.FP16:
            check_overflow(calibration, wish.options.keep)
    if not missing and beside is None and (calibration is None or is_kept(bundle, calibration)):
        return
    graph_of = functools.cache(functools.partial(fp32_graph, bundle))
    with bundle.transaction() as change:
        if calibration is not None:
            keep_calibration(change, calibration)
        for wish in wishes:
            if wish in missing:
                _write(bundle, change, wish, graph_of(wish.options.equalize), calibration, progress, check)
            elif check is not None:
                check(wish.name, Graph.read(bundle.artifact(wish.name)))
        if beside is not None:
            beside(change)


def _wish(
    bundle: Bundle, options: LoweringOptions, calibration: Calibration | None, name: str, precision: Precision, target: str
) -> _Wish:
    known, use = _graph_file(bundle, name), None
    if precision.row.quantized:
        use = calibration_use(calibration) if calibration is not None else known.calibration if known is not None else None
    return _Wish(name=name, precision=precision, target=target, options=options.for_file(known), entry=known, use=use)


def _graph_file(bundle: Bundle, name: str) -> GraphFile | None:
    entry = bundle.manifest.artifacts.get(name)
    return entry if isinstance(entry, GraphFile) else None


def _check_same(bundle: Bundle, wish: _Wish, calibration: Calibration) -> None:
    """Raise CalibrationError where a file that is gone would be made of other ranges than it was."""
    entry = bundle.manifest.artifacts.get(CALIBRATION)
    kept = {calibration.key, entry.key if isinstance(entry, CalibrationFile) else None}
    if wish.use is not None and wish.use.key not in kept:
        raise CalibrationError(
            f"{wish.name} was calibrated on {wish.use.data or 'other images'}, and the bundle keeps the ranges of "
            f"{calibration.data or 'others'}: give --calibration DATA"
        )


def _is_there(bundle: Bundle, wish: _Wish) -> bool:
    """Whether a file is there as it is wished for. Raises IntegrityError where it was changed."""
    entry = wish.entry
    if entry is None or not os.path.lexists(bundle.path / wish.name):
        return False
    bundle.artifact(wish.name)
    same_use = (entry.calibration and entry.calibration.key) == (wish.use and wish.use.key)
    return entry.made_from == bundle.sha256(FP32) and entry.settings == wish.settings and same_use


def _write(
    bundle: Bundle,
    change: Transaction,
    wish: _Wish,
    graph: Graph,
    calibration: Calibration | None,
    progress: Progress,
    check: Callable[[str, Graph], None] | None,
) -> None:
    progress(f"write {wish.name}", 0, None)
    made_from = bundle.sha256(FP32)
    train = functools.partial(_reconstructed, bundle, wish.options, progress)
    done, placement = _lowered(graph, calibration, wish.options, wish.precision, wish.target, train)
    if check is not None:
        check(wish.name, done)
    done.save(change.stage(wish.name))
    use = calibration_use(calibration) if calibration is not None and wish.precision.row.quantized else None
    change.add(
        wish.name, GraphFile, precision=wish.precision, settings=wish.settings, calibration=use, made_from=made_from,
        key=key_of(made_from=made_from, calibration=use and use.key, **wish.settings),
        quantized_layers=None if placement is None else len(placement.convolutions),
        quantized_tensors=None if placement is None else len(placement.activations),
    )  # fmt: skip


def _lowered(
    graph: Graph,
    calibration: Calibration | None,
    options: LoweringOptions,
    precision: Precision,
    target: str,
    train: Callable[[Graph, Graph], Graph],
) -> tuple[Graph, Placement | None]:
    from resnet_deploy.precision.adjust import correct_bias
    from resnet_deploy.precision.cast import cast
    from resnet_deploy.precision.quantize import quantize

    if not precision.row.quantized or calibration is None:
        return precision.row.lower(graph, precision, native_io=options.native_io, keep=options.keep), None
    done, placement = quantize(graph, calibration, options.quantizing(graph, precision, target))
    if options.reconstructs(precision, target):
        done = train(graph, done)
    elif options.correct_bias and precision is Precision.INT8:
        correct_bias(graph, done, placement, calibration)
    if target == "tensorrt" and options.other_layers == "fp16":
        done = cast(done, Precision.FP16)
    return done, placement


def _reconstructed(bundle: Bundle, options: LoweringOptions, progress: Progress, graph: Graph, quantized: Graph) -> Graph:
    """Trained on the images that were calibrated on. Raises CalibrationError where there are only their ranges."""
    from resnet_deploy.precision.reconstruct import reconstruct

    if options.calibration is None or is_file(options.calibration):
        raise CalibrationError("--reconstruct trains on images, and only their ranges are known: give --calibration DATA")
    dataset = OpenedBundle(bundle).data(options.calibration, limit=options.calibration_images + HELD_OUT, labels_needed=False)
    images = np.concatenate([part.images for part in dataset.batches(32)])
    return reconstruct(graph, quantized, images, step=lambda done, total: progress("reconstruct", done, total))
