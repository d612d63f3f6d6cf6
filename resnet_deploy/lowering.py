"""The FP32 graph of a bundle in other precisions: calibrated once, written for each target, only where it is missing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resnet_deploy.bundle.opened import CALIBRATION, Subject
from resnet_deploy.bundle.store import Bundle, Transaction, key_of
from resnet_deploy.errors import CalibrationError, UsageError
from resnet_deploy.specs import OptionGroup, Precision, Progress

if TYPE_CHECKING:
    from resnet_deploy.data import Dataset
    from resnet_deploy.precision.calibrate import Calibration
    from resnet_deploy.precision.graph import Graph
    from resnet_deploy.precision.placement import Placement

FP32 = "model.fp32.onnx"
TARGETS = ("tensorrt", "cpu")
IMAGES = 512  # to calibrate on; ranges of ResNets settle well before
HELD_OUT = 64  # more of them, on which `auto` judges the methods
QUANTIZED = frozenset({Precision.INT8, Precision.FP8})


@dataclass(frozen=True, kw_only=True)
class LoweringOptions(OptionGroup):
    """How precisions are made; names and defaults are those of `resnet-deploy export`.

    precision: of fp32, fp16, bf16, int8, fp8. targets: for INT8, tensorrt (also TensorRT-RTX and OpenVINO) or cpu (ONNX
    Runtime's kernels). calibration: images, as `--data`, or a calibration.json. calibration_images: how many of them at most.
    calibration_method: auto, max, percentile:P, entropy or mse. other_layers: what is not quantized computes in fp16 or
    fp32 (tensorrt). keep: layers, or what they lie under, that are not lowered. grouped: convolutions in groups: quantize,
    keep, or auto: keep for tensorrt, whose INT8 kernels for them can be slower than FP16's
    (github.com/NVIDIA/TensorRT/issues/4529), quantize for cpu; `tune` with a backend measures. quantize_head: the classifier
    too. clip_weights, equalize, correct_bias: see `resnet_deploy.precision`. reconstruct: train scales, weights and biases on
    the calibration images until the answers are FP32's, without labels (INT8 for tensorrt alone, where it takes the place of
    clip_weights and correct_bias). reduce_range: for CPUs without VNNI. native_io: FP16 and BF16 inputs and outputs.
    """

    precision: tuple[str, ...] = ("fp32",)
    targets: tuple[str, ...] = TARGETS
    calibration: str | Path | None = None
    calibration_images: int = IMAGES
    calibration_method: str = "auto"
    other_layers: str = "fp16"
    keep: tuple[str, ...] = ()
    grouped: str = "auto"
    quantize_head: bool = False
    clip_weights: bool = False
    equalize: bool = False
    correct_bias: bool = False
    reconstruct: bool = False
    reduce_range: bool = False
    native_io: bool = False
    precisions: tuple[Precision, ...] = field(init=False)

    def __post_init__(self) -> None:
        for name in ("precision", "targets", "keep"):  # "fp32,int8" is what people type
            if isinstance(value := getattr(self, name), str):
                object.__setattr__(self, name, tuple(part for part in value.split(",") if part))
        known = [precision.value for precision in Precision]
        if not self.precision or (unknown := [name for name in self.precision if name not in known]):
            raise UsageError(f"unknown precision {unknown[0] if self.precision else ''!r}; choose from {', '.join(known)}")
        if not self.targets or (wrong := [name for name in self.targets if name not in TARGETS]):
            raise UsageError(f"unknown target {wrong[0] if self.targets else ''!r}; choose from {', '.join(TARGETS)}")
        if self.other_layers not in {"fp16", "fp32"}:
            raise UsageError(f"other layers compute in fp16 or fp32, not in {self.other_layers!r}")
        if self.grouped not in {"auto", "quantize", "keep"}:
            raise UsageError(f"grouped convolutions: auto, quantize or keep, not {self.grouped!r}")
        if self.calibration_images < 1:
            raise UsageError(f"a calibration needs at least 1 image; found {self.calibration_images}")
        object.__setattr__(self, "precisions", tuple(map(Precision, dict.fromkeys(self.precision))))

    def kept(self, graph: Graph, target: str) -> tuple[str, ...]:
        """Layers that are not quantized for a target, grouped convolutions among them where the policy says so."""
        from resnet_deploy.precision.placement import grouped

        keeps = self.grouped == "keep" or (self.grouped == "auto" and target == "tensorrt")
        return (*self.keep, *(grouped(graph) if keeps else ()))

    def files(self) -> dict[str, tuple[Precision, str]]:
        """Artifacts that are asked for, each with its precision and target."""
        found: dict[str, tuple[Precision, str]] = {}
        for precision in self.precisions:
            targets = self.targets if precision is Precision.INT8 else ("tensorrt",)
            for target in targets if precision is not Precision.FP32 else ():
                found[f"model.{precision.value}{'-cpu' if target == 'cpu' else ''}.onnx"] = (precision, target)
        return found

    def settings(self, precision: Precision, target: str) -> dict[str, Any]:
        """What a file depends on, beside its graph and its calibration."""
        if precision not in QUANTIZED:
            return {"keep": list(self.keep), "native_io": self.native_io, "equalize": self.equalize}
        names = ("grouped", "quantize_head", "clip_weights", "equalize", "correct_bias", "reduce_range")
        found: dict[str, Any] = {name: getattr(self, name) for name in names} | {"keep": list(self.keep), "target": target}
        if self.reconstructs(precision, target):  # named only where it is, so that files without it keep their keys
            found["reconstruct"] = True
        return found | ({"other_layers": self.other_layers} if target == "tensorrt" else {})

    def reconstructs(self, precision: Precision, target: str) -> bool:
        return self.reconstruct and precision is Precision.INT8 and target == "tensorrt"


def lower(bundle: Bundle, options: LoweringOptions, progress: Progress) -> None:
    """Make the precisions that are missing or were made otherwise. Raises UsageError, CalibrationError, DataError or
    GraphError; what was there stays."""
    files = options.files()
    if not files:
        return
    calibration: Calibration | None = None
    if options.calibration is not None or any(precision in QUANTIZED for precision, _ in files.values()):
        calibration = _calibration(bundle, options, progress)
    key = None if calibration is None else _calibration_key(calibration)
    made_from = bundle.manifest["artifacts"][FP32]["sha256"]
    wanted = {
        name: key_of(
            made_from=made_from, calibration=key if precision in QUANTIZED else None, **options.settings(precision, target)
        )
        for name, (precision, target) in files.items()
    }
    missing = [name for name, wish in wanted.items() if bundle.manifest["artifacts"].get(name, {}).get("key") != wish]
    for name in files:
        if name not in missing:
            bundle.artifact(name)
    if missing:
        graph = _graph(bundle, options)
        train = functools.partial(_reconstructed, bundle, options, progress)
        with bundle.transaction() as change:
            if calibration is not None:
                _keep_calibration(change, calibration)
            for name in missing:
                progress(f"write {name}", 0, None)
                made = {"key": wanted[name], "made_from": made_from}
                _write(change, name, graph, calibration, options, *files[name], train, **made)


def lower_missing(bundle: Bundle, options: LoweringOptions, progress: Progress) -> None:
    """As `lower`; but where no more than precisions and targets is asked for, files that are there stay: a tuned mix too."""
    plain = LoweringOptions(precision=options.precision, targets=options.targets) == options
    wanted = [
        kind.value for name, (kind, _) in options.files().items() if not plain or name not in bundle.manifest["artifacts"]
    ]
    if wanted:
        lower(bundle, replace(options, precision=tuple(dict.fromkeys(wanted))), progress)


def calibrated(bundle: Bundle, options: LoweringOptions, progress: Progress) -> tuple[Graph, Calibration]:
    """The FP32 graph and its ranges, kept in the bundle from now on."""
    calibration = _calibration(bundle, options, progress)
    entry = bundle.manifest["artifacts"].get(CALIBRATION)
    if entry is None or entry["key"] != _calibration_key(calibration):
        with bundle.transaction() as change:
            _keep_calibration(change, calibration)
    return _graph(bundle, options), calibration


def _calibration_key(calibration: Calibration) -> str:
    return key_of(method=calibration.method, graph=calibration.graph, images=calibration.images, data=calibration.data)


def _keep_calibration(change: Transaction, calibration: Calibration) -> None:
    calibration.save(change.stage(CALIBRATION))
    change.add(
        CALIBRATION,
        kind="calibration",
        method=calibration.method,
        images=len(calibration.images),
        data=calibration.data,
        key=_calibration_key(calibration),
        warnings=list(calibration.warnings),
    )


def _write(
    change: Transaction,
    name: str,
    graph: Graph,
    calibration: Calibration | None,
    options: LoweringOptions,
    precision: Precision,
    target: str,
    train: Callable[[Graph, Graph], Graph],
    **entry: Any,
) -> None:
    done, placement = _lowered(graph, calibration, options, precision, target, train)
    done.save(change.stage(name))
    if placement is not None:
        entry |= {"quantized_layers": len(placement.convolutions), "quantized_tensors": len(placement.activations)}
    change.add(
        name, kind="onnx", precision=precision.value, settings=options.settings(precision, target),
        calibration=None if calibration is None or precision not in QUANTIZED else calibration.method, **entry,
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
    from resnet_deploy.precision.placement import Target
    from resnet_deploy.precision.quantize import QuantizeOptions, quantize

    if precision not in QUANTIZED or calibration is None:
        _check_overflow(calibration, precision, options)
        return cast(graph, precision, native_io=options.native_io, keep=options.keep), None
    chosen = QuantizeOptions(
        precision=precision, target=Target(target), keep=options.kept(graph, target), head=options.quantize_head,
        clip_weights=options.clip_weights, reduce_range=options.reduce_range and target == "cpu",
    )  # fmt: skip
    done, placement = quantize(graph, calibration, chosen)
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

    if options.calibration is None or _is_file(options.calibration):
        raise CalibrationError("a reconstruction trains on images, not on their ranges alone: --calibration DATA")
    dataset = Subject(bundle).data(options.calibration, limit=options.calibration_images + HELD_OUT)
    images = np.concatenate([part.images for part in dataset.batches(32)])
    return reconstruct(graph, quantized, images, step=lambda done, total: progress("reconstruct", done, total))


def _is_file(source: str | Path) -> bool:  # a calibration.json, and no images
    return Path(source).suffix == ".json" and Path(source).is_file()


def _check_overflow(calibration: Calibration | None, precision: Precision, options: LoweringOptions) -> None:
    from resnet_deploy.precision.placement import matches

    if calibration is None or precision is not Precision.FP16:
        return
    for name, largest in calibration.overflows().items():
        if not matches(name, options.keep):
            raise CalibrationError(
                f"{name} reaches {largest:.3g} on the calibration images, and FP16 ends at 65,504: use bf16, or leave the "
                f"layer in FP32 with --keep {name.rpartition('.')[0] or name}"
            )


def _graph(bundle: Bundle, options: LoweringOptions) -> Graph:
    """The FP32 graph, equalized where that was asked for."""
    from resnet_deploy.precision.adjust import equalize
    from resnet_deploy.precision.graph import Graph

    graph = Graph.read(bundle.artifact(FP32))
    return equalize(graph) if options.equalize else graph


def _calibration(bundle: Bundle, options: LoweringOptions, progress: Progress) -> Calibration:
    """From a file, from the bundle where it is of the same data and method, or from images."""
    from resnet_deploy.precision.calibrate import Calibration, digest_of

    source = options.calibration
    kept = bundle.manifest["artifacts"].get(CALIBRATION)
    if source is None:
        if kept is None:
            raise CalibrationError("INT8 and FP8 need images to calibrate on: --calibration DATA")
        return Calibration.load(bundle.artifact(CALIBRATION))
    if _is_file(source):
        return Calibration.load(Path(source))
    subject = Subject(bundle)
    dataset = subject.data(source, limit=options.calibration_images + HELD_OUT)  # `auto` judges on the rest
    wish = f"{dataset.source} {dataset.sha256[:16]} {options.calibration_method}"
    if kept is not None and kept["data"] == wish:
        found = Calibration.load(bundle.artifact(CALIBRATION))
        if found.graph == digest_of(_graph(bundle, options)):
            return found
    return _calibrate(bundle, subject, dataset, options, wish, progress)


def _calibrate(
    bundle: Bundle, subject: Subject, dataset: Dataset, options: LoweringOptions, name: str, progress: Progress
) -> Calibration:
    from resnet_deploy.precision.auto import best_method
    from resnet_deploy.precision.calibrate import observe

    graph = _graph(bundle, options)
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
    found = observer.calibration(method, name)
    if dataset.skipped:
        found = replace(found, warnings=(*found.warnings, f"{len(dataset.skipped)} calibration images were skipped"))
    return found
