"""The FP32 graph of a bundle in other precisions: calibrated once, written for each target, only where it is missing."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from resnet_deploy import limits
from resnet_deploy.bundle.codec import key_of
from resnet_deploy.bundle.fields import LoweringSettings
from resnet_deploy.bundle.manifest import CalibrationFile, CalibrationUse, GraphFile
from resnet_deploy.bundle.names import CALIBRATION, FP32
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.bundle.transaction import Transaction
from resnet_deploy.errors import CalibrationError, UsageError
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
from resnet_deploy.precisions import PRECISIONS, Precision
from resnet_deploy.specs import OptionGroup, Progress, check_calibration_method

if TYPE_CHECKING:
    from resnet_deploy.graph.graph import Graph
    from resnet_deploy.precision.calibrate import Calibration
    from resnet_deploy.precision.placement import Placement
    from resnet_deploy.precision.quantize import QuantizeOptions

TARGETS = ("tensorrt", "cpu")
IMAGES = 512  # to calibrate on; ranges of ResNets settle well before
_SETTINGS = LoweringSettings.__annotations__.keys() - {"target"}  # the options that a file is made with


@dataclass(frozen=True, kw_only=True)
class LoweringOptions(OptionGroup):
    """Which precisions are made, and how. The names and defaults are those of `resnet-deploy export`.

    Attributes:
        precision: one or several of fp32, fp16, bf16, int8, fp8.
        int8_target: what the INT8 files are for: tensorrt (also TensorRT-RTX and OpenVINO), cpu (ONNX Runtime's kernels).
        calibration: images, as `data` of `verify`, or a calibration.json: INT8 and FP8 need one of them.
        calibration_images: at most this many of them, evenly spaced.
        calibration_method: how a tensor's range is chosen: auto, max, percentile:P, entropy or mse.
        other_layers: fp16 or fp32: what layers that are not quantized compute in (tensorrt).
        keep: layers, or modules with all their layers, that stay in FP32 or FP16.
        grouped: what to do with grouped convolutions: quantize, keep, or auto: keep for tensorrt, whose INT8 kernels for
            them can be slower than FP16's (github.com/NVIDIA/TensorRT/issues/4529), quantize for cpu; `tune` with a
            backend measures.
        quantize_head: quantize the classifier too.
        clip_weights: choose weight scales by the least squared error, not by the largest weight.
        equalize: equalize channels between convolutions before calibration (1906.04721).
        correct_bias: subtract the mean error of rounded weights from the biases (1906.04721).
        reconstruct: train scales, weights and biases on the calibration images, without labels, to give FP32's answers
            (INT8 for tensorrt alone, where it takes the place of clip_weights and correct_bias).
        reduce_range: 7 bits of weight, for CPUs with AVX2 but without VNNI (INT8 for cpu).
        native_io: take and give FP16 or BF16 tensors in files of that precision.
    """

    precision: str | Iterable[str] = ("fp32",)  # this and the other lists: a text as people type it, or several; tuples then
    int8_target: str | Iterable[str] = TARGETS
    calibration: str | Path | None = None
    calibration_images: int = IMAGES
    calibration_method: str = "auto"
    other_layers: str = "fp16"
    keep: str | Iterable[str] = ()
    grouped: str = "auto"
    quantize_head: bool = False
    clip_weights: bool = False
    equalize: bool = False
    correct_bias: bool = False
    reconstruct: bool = False
    reduce_range: bool = False
    native_io: bool = False

    def __post_init__(self) -> None:
        for name in ("precision", "int8_target", "keep"):  # "fp32,int8" is what people type
            value = getattr(self, name)
            parts = value.split(",") if isinstance(value, str) else value
            object.__setattr__(self, name, tuple(part for part in parts if part))
        if not self.precision or (unknown := [name for name in self.precision if name not in PRECISIONS]):
            raise UsageError(f"unknown precision {unknown[0] if self.precision else ''!r}; choose from {', '.join(PRECISIONS)}")
        if not self.int8_target or (wrong := [name for name in self.int8_target if name not in TARGETS]):
            raise UsageError(f"unknown INT8 target {wrong[0] if self.int8_target else ''!r}; choose from {', '.join(TARGETS)}")
        if self.other_layers not in {"fp16", "fp32"}:
            raise UsageError(f"other layers compute in fp16 or fp32, not in {self.other_layers!r}")
        if self.grouped not in {"auto", "quantize", "keep"}:
            raise UsageError(f"grouped convolutions: auto, quantize or keep, not {self.grouped!r}")
        limits.check("calibration_images", self.calibration_images)
        if self.calibration_method != "auto":
            check_calibration_method(self.calibration_method)
        defaults = {item.name: item.default for item in fields(LoweringOptions) if item.init}
        object.__setattr__(self, "said", frozenset(name for name, value in defaults.items() if getattr(self, name) != value))
        super().__post_init__()

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """`precision`, each once."""
        return tuple(map(Precision, dict.fromkeys(self.precision)))

    def exactly(self) -> LoweringOptions:
        """The same with everything said: nothing is taken from files that are there."""
        same = replace(self)
        object.__setattr__(same, "said", frozenset(_SETTINGS))
        return same

    def for_file(self, entry: GraphFile | None) -> LoweringOptions:
        """The options for a file that is there: what was not said is as the file was made."""
        known: dict[str, Any] = {} if entry is None else {**entry.settings}
        return replace(self, **{name: known[name] for name in _SETTINGS if name in known and name not in self.said})

    def quantizing(self, graph: Graph, precision: Precision, target: str) -> QuantizeOptions:
        """How a graph is quantized for a target.

        Args:
            graph: the FP32 graph.
            precision: INT8 or FP8.
            target: tensorrt or cpu.

        Returns:
            The options of `quantize`.
        """
        from resnet_deploy.precision.placement import Target
        from resnet_deploy.precision.quantize import QuantizeOptions

        return QuantizeOptions(
            precision=precision, target=Target(target), keep=self.kept(graph, target), head=self.quantize_head,
            clip_weights=self.clip_weights, reduce_range=self.reduce_range and target == "cpu",
        )  # fmt: skip

    def kept(self, graph: Graph, target: str) -> tuple[str, ...]:
        """Layers that are not quantized, grouped convolutions among them where the policy says so.

        Args:
            graph: the FP32 graph.
            target: tensorrt or cpu.

        Returns:
            Names of layers, or of modules with all their layers.
        """
        from resnet_deploy.precision.placement import grouped

        keeps = self.grouped == "keep" or (self.grouped == "auto" and target == "tensorrt")
        return (*self.keep, *(grouped(graph) if keeps else ()))

    def files(self) -> dict[str, tuple[Precision, str]]:
        """Artifacts that are asked for, each with its precision and target."""
        found: dict[str, tuple[Precision, str]] = {}
        for precision in self.precisions:
            own = precision.row.targets
            for target in [target for target in self.int8_target if target in own] or own:
                found[precision.graph_file(target)] = (precision, target)
        return found

    def settings(self, precision: Precision, target: str) -> dict[str, Any]:
        """What a file depends on, beside its graph and its calibration.

        Args:
            precision: of the file.
            target: tensorrt or cpu.

        Returns:
            The options by name, as the manifest records them.
        """
        if not precision.row.quantized:
            return {"keep": list(self.keep), "native_io": self.native_io, "equalize": self.equalize}
        names = ("grouped", "quantize_head", "clip_weights", "equalize", "correct_bias", "reduce_range")
        found: dict[str, Any] = {name: getattr(self, name) for name in names} | {"keep": list(self.keep), "target": target}
        if self.reconstructs(precision, target):  # named only where it is, so that files without it keep their keys
            found["reconstruct"] = True
        return found | ({"other_layers": self.other_layers} if target == "tensorrt" else {})

    def reconstructs(self, precision: Precision, target: str) -> bool:
        return self.reconstruct and precision is Precision.INT8 and target == "tensorrt"


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
    """Make the precisions that are missing, are gone, or were made otherwise than is said now.

    Of a file that is there, what is not said stays as it was made: its calibration, and the layers that `tune` kept.

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
