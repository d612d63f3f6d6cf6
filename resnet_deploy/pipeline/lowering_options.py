"""How a bundle's precisions are made: the options that `export`, `bench`, `tune` and `build` share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_deploy import limits
from resnet_deploy.bundle.fields import LoweringSettings
from resnet_deploy.bundle.manifest import GraphFile
from resnet_deploy.errors import UsageError
from resnet_deploy.precisions import PRECISIONS, Precision
from resnet_deploy.specs import OptionGroup, check_calibration_method

if TYPE_CHECKING:
    from resnet_deploy.graph.graph import Graph
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
        limits.check_option("calibration_images", self.calibration_images)
        if self.calibration_method != "auto":
            check_calibration_method(self.calibration_method)
        defaults = {item.name: item.default for item in fields(LoweringOptions) if item.init}
        object.__setattr__(
            self, "explicit", frozenset(name for name, value in defaults.items() if getattr(self, name) != value)
        )
        super().__post_init__()

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """`precision`, each once."""
        return tuple(map(Precision, dict.fromkeys(self.precision)))

    def exactly(self) -> LoweringOptions:
        """The same with every option explicit: nothing is taken from files that are there."""
        same = replace(self)
        object.__setattr__(same, "explicit", frozenset(_SETTINGS))
        return same

    def for_file(self, entry: GraphFile | None) -> LoweringOptions:
        """The options for a file that is there: what was not given is as the file was made."""
        known: dict[str, Any] = {} if entry is None else {**entry.settings}
        return replace(self, **{name: known[name] for name in _SETTINGS if name in known and name not in self.explicit})

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
        files: dict[str, tuple[Precision, str]] = {}
        for precision in self.precisions:
            own = precision.row.targets
            for target in [target for target in self.int8_target if target in own] or own:
                files[precision.graph_file(target)] = (precision, target)
        return files

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
        settings: dict[str, Any] = {name: getattr(self, name) for name in names} | {"keep": list(self.keep), "target": target}
        if self.reconstructs(precision, target):  # named only where it is, so that files without it keep their keys
            settings["reconstruct"] = True
        return settings | ({"other_layers": self.other_layers} if target == "tensorrt" else {})

    def reconstructs(self, precision: Precision, target: str) -> bool:
        return self.reconstruct and precision is Precision.INT8 and target == "tensorrt"
