"""What a plan's layers really compute in: from the engine inspector, or from the builder's own words where no GPU is there.

Both describe each engine layer by name, kind, inputs and outputs with their types, and the ONNX nodes that it came from.
https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/engine-tools.html
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from resnet_deploy.precisions import all_precisions
from resnet_deploy.specs import to_dict

if TYPE_CHECKING:  # the signatures of each package in turn: tests/typing
    from tensorrt_types import ICudaEngine, TensorRt

# In the order in which they are looked for: "BFloat16" holds "Float16", "UInt8" holds "Int8".
_TYPES = (
    ("uint8", r"uint8"), ("bf16", r"bf16|bfloat16"), ("fp8", r"fp8|float8|e4m3"), ("int8", r"int8"),
    ("fp16", r"fp16|half|float16"), ("int64", r"int64"), ("int32", r"int32"), ("bool", r"bool"), ("fp32", r"fp32|float"),
)  # fmt: skip
_COMPUTES = re.compile(r"conv|correlation|gemm|matrix|fusion|fully", re.IGNORECASE)
_MOVES = frozenset({"Tran", "Move", "Cast", "Repl", "Conc", "Resh", "Slic", "Copy"})  # of TensorRT's generated kernels
_LINE = re.compile(
    r"Name: (?P<name>.+?), LayerType: (?P<kind>\w+), Inputs: \[(?P<inputs>.*?)\], Constants: .*?"
    r"Outputs: \[(?P<outputs>.*?)\], TacticName:.*?Metadata: (?P<metadata>.*)"
)


@dataclass(frozen=True, kw_only=True)
class EngineLayer:
    """One kernel, or one group of them.

    Attributes:
        name: the engine's.
        kind: the engine's word.
        precision: of what it reads first; None where it reads nothing.
        output: precision of what it writes; None where it writes nothing.
        onnx: names of the graph's nodes that it computes, or a part of.
    """

    name: str
    kind: str
    precision: str | None
    output: str | None
    onnx: tuple[str, ...]

    @property
    def computes(self) -> bool:
        """Whether it is a convolution or a matrix product, with what was fused into it."""
        return bool(_COMPUTES.search(self.kind))

    @property
    def reformats(self) -> bool:
        """Whether it only moves data: a copy, a cast or another layout."""
        if self.kind.lower() == "reformat" or "Reformatting CopyNode" in self.name:
            return True
        generated = re.match(r"__myl_([A-Za-z]+)_myl", self.name)
        return bool(generated) and set(re.findall(r"[A-Z][a-z]*", generated[1])) <= _MOVES  # type: ignore[index]


@dataclass(frozen=True, kw_only=True)
class PlanReport:
    """Which engine layer computes which layer of the graph, and what that amounts to.

    Attributes:
        engine_layers: in order.
        layers: each convolution of the graph by name, with its engine layer's precision.
        reformats: engine layers that only move data.
        unfused_adds: additions that are kernels of their own.
    """

    engine_layers: tuple[EngineLayer, ...]
    layers: dict[str, str]
    reformats: int
    unfused_adds: tuple[str, ...]

    @property
    def convolutions(self) -> dict[str, int]:
        return dict(Counter(self.layers.values()))

    @property
    def quantized(self) -> tuple[str, ...]:
        """Convolutions that compute in a quantized precision."""
        names = {precision.value for precision in all_precisions() if precision.row.quantized}
        return tuple(name for name, precision in self.layers.items() if precision in names)

    @property
    def float_outputs(self) -> tuple[str, ...]:
        """Of the quantized ones, those that write floats, which other kernels read again to quantize them."""
        floats = {precision.value for precision in all_precisions() if not precision.row.quantized}
        layers = {name: _computing(self.engine_layers, name) for name in self.quantized}
        return tuple(name for name, layer in layers.items() if layer is not None and layer.output in floats)

    def to_dict(self) -> dict[str, Any]:
        return {**to_dict(self), "convolutions": self.convolutions, "float_outputs": self.float_outputs}


def summarize(reported: Iterable[EngineLayer], convolutions: Iterable[str], additions: Iterable[str]) -> PlanReport:
    """Match engine layers with a graph's convolutions and additions, by the names of their nodes.

    Args:
        reported: the engine's layers.
        convolutions, additions: names of the graph's nodes.

    Returns:
        The report.
    """
    layers = tuple(reported)
    computing = {name: layer for name in convolutions if (layer := _computing(layers, name)) is not None}
    fused = {name for layer in layers if layer.computes for name in layer.onnx}
    named = {name for layer in layers for name in layer.onnx}
    return PlanReport(
        engine_layers=layers,
        layers={name: layer.precision or "unknown" for name, layer in computing.items()},
        reformats=sum(layer.reformats for layer in layers),
        unfused_adds=tuple(name for name in additions if name in named - fused),
    )


def _computing(layers: tuple[EngineLayer, ...], name: str) -> EngineLayer | None:
    """The engine layer that computes a convolution: others of its name rescale what it put out."""
    return next((layer for layer in layers if layer.computes and name in layer.onnx), None)


def inspect_engine(trt: TensorRt, engine: ICudaEngine, *, every_profile: bool = False) -> list[EngineLayer]:
    """Layers as a loaded engine has them; none of the lean runtime, which has no inspector."""
    if not hasattr(trt, "EngineInspector"):
        return []
    inspector = engine.create_engine_inspector()
    assert isinstance(inspector, trt.EngineInspector)
    return from_inspector(inspector.get_engine_information(trt.LayerInformationFormat.JSON), every_profile=every_profile)


def from_inspector(text: str, *, every_profile: bool = False) -> list[EngineLayer]:
    """Read the layers of a plan that was built with detailed verbosity.

    Args:
        text: the engine inspector's JSON.
        every_profile: the layers of every optimization profile, not of the first alone.

    Returns:
        The layers, in order.
    """
    layers = []
    for layer in json.loads(text)["Layers"]:
        if isinstance(layer, str) or ("[profile " in layer["Name"] and not every_profile):
            continue
        onnx = _onnx_names(layer.get("Metadata", "")) or tuple(layer["Name"].split(" + "))
        inputs, outputs = (
            [str(tensor.get("Format/Datatype") or tensor.get("Datatype") or "") for tensor in layer.get(side, [])]
            for side in ("Inputs", "Outputs")
        )
        layers.append(_layer(layer["Name"], layer["LayerType"], inputs, outputs, onnx))
    return layers


def from_builder(lines: Iterable[str]) -> list[EngineLayer]:
    """Layers of the first profile, from what a builder logs with detailed verbosity.

    Each profile's kernels have a number of their own in their names (`_myl1_`); a number whose nodes were all there before
    is another profile.
    """
    parts: dict[str, list[EngineLayer]] = {}
    for line in lines:
        if (match := _LINE.match(line)) is not None:
            part = re.search(r"_myl(\d+)_", match["name"])
            inputs, outputs = (re.findall(r"Datatype: (\w+)", match[side]) for side in ("inputs", "outputs"))
            layer = _layer(match["name"], match["kind"], inputs, outputs, _onnx_names(match["metadata"]))
            parts.setdefault(part[1] if part else "0", []).append(layer)
    distinct: list[EngineLayer] = []
    for layers in parts.values():
        known = {name for layer in distinct for name in layer.onnx}
        if not distinct or not {name for layer in layers for name in layer.onnx} <= known:
            distinct += layers
    return distinct


def _layer(name: str, kind: str, inputs: list[str], outputs: list[str], onnx: tuple[str, ...]) -> EngineLayer:
    types = [_type(side[0]) if side else None for side in (inputs, outputs)]
    return EngineLayer(name=name, kind=kind, precision=types[0], output=types[1], onnx=onnx)


def _onnx_names(metadata: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(re.findall(r"\[ONNX Layer: (.+?)\]", metadata)))


def _type(text: str) -> str:
    return next((name for name, pattern in _TYPES if re.search(pattern, text, re.IGNORECASE)), text)
