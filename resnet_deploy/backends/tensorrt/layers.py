"""Layers of a plan, as its profiler reports them, under the names of the graph's nodes."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from resnet_deploy.backends.layers import LayerTime, median, title
from resnet_deploy.engine.report import EngineLayer


def name_layers(times_s: Mapping[str, Sequence[float]], known: Mapping[str, EngineLayer]) -> tuple[LayerTime, ...]:
    """times_s: seconds of every run by reported name. known: what the engine says of its layers, by name. A kernel that only
    rescales what a convolution puts out is named after what else it computes."""
    layers = {name: _layer(known, name) for name in times_s}
    computed = {node for layer in layers.values() if layer is not None and layer.computes for node in layer.onnx}
    return tuple(_named(name, values_s, layers[name], computed) for name, values_s in times_s.items())


def _layer(known: Mapping[str, EngineLayer], name: str) -> EngineLayer | None:
    """The layer of a reported name; optimization profiles after the first may add their number to it."""
    return known.get(name) or known.get(re.sub(r" \[profile \d+\]$", "", name))


def _named(name: str, values_s: Sequence[float], layer: EngineLayer | None, computed: set[str]) -> LayerTime:
    if layer is None:
        return LayerTime(name=name, kind="unknown", precision=None, time_s=median(values_s))
    return LayerTime(
        name=title(layer.onnx, name, () if layer.computes else computed), kind=layer.kind, precision=layer.precision,
        time_s=median(values_s), onnx=layer.onnx,
    )  # fmt: skip
