"""Two corrections that need no training (Nagel et al., 1906.04721): equalized channels before calibration, corrected biases
after quantization."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from resnet_deploy.errors import CalibrationError
from resnet_deploy.graph.graph import Graph
from resnet_deploy.precision.calibrate import Calibration
from resnet_deploy.precision.placement import Placement

_SWEEPS = 10  # of a bottleneck's two pairs; they settle in a few


def equalize(graph: Graph) -> Graph:
    """A copy in which the channels between two convolutions have the same range on both sides (section 4.1).

    A pair is a convolution, a ReLU and a convolution that nothing else reads. What the network computes stays the same but
    for rounding.
    """
    graph.require_float32()
    done = graph.copy()
    pairs = _pairs(done)
    values = {name: done.value(name).copy() for first, second in pairs for name in _constants(first, second)}
    for _ in range(_SWEEPS):
        for first, second in pairs:
            _equalize(values, first, second)
    for name, array in values.items():
        done.add_constant(name, _named(array, name))
    return done


def _named(array: NDArray[Any], name: str) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.ascontiguousarray(array.astype(np.float32)), name)


def _constants(first: onnx.NodeProto, second: onnx.NodeProto) -> list[str]:
    return [*first.input[1:], second.input[1]]


def _pairs(graph: Graph) -> list[tuple[onnx.NodeProto, onnx.NodeProto]]:
    read_once = {name for name, readers in graph.used_by.items() if len(readers) == 1}
    pairs = []
    for first in graph.weighted():
        relu = graph.used_by.get(first.output[0], [None])[0]
        if first.op_type != "Conv" or relu is None or relu.op_type != "Relu":
            continue
        second = graph.used_by.get(relu.output[0], [None])[0]
        alone = {first.output[0], relu.output[0]} <= read_once and not {first.output[0], relu.output[0]} & set(graph.outputs)
        if second is None or second.op_type != "Conv" or not alone or second.input[1] not in graph.constants:
            continue
        if set(_constants(first, second)) <= read_once:  # shared weights belong to others too
            pairs.append((first, second))
    return pairs


def _equalize(values: dict[str, NDArray[Any]], first: onnx.NodeProto, second: onnx.NodeProto) -> None:
    before, after = values[first.input[1]], values[second.input[1]]
    groups, channels = len(before) // after.shape[1], len(before)
    # An input channel of a grouped convolution is read by its group's filters alone.
    grouped = after.reshape(groups, len(after) // groups, *after.shape[1:])
    left = np.abs(before).reshape(channels, -1).max(1)
    right = np.abs(grouped).max(axis=(1, *range(3, grouped.ndim))).reshape(channels)
    scale = np.ones(channels)
    kept = (left > 0) & (right > 0)
    scale[kept] = np.sqrt(left[kept] / right[kept])
    scale = scale.clip(1e-3, 1e3)
    values[first.input[1]] = before / scale.reshape(-1, *[1] * (before.ndim - 1))
    if len(first.input) > 2:
        values[first.input[2]] = values[first.input[2]] / scale
    shaped = scale.reshape(groups, 1, -1, *[1] * (after.ndim - 2))
    values[second.input[1]] = (grouped * shaped).reshape(after.shape)


def correct_bias(graph: Graph, quantized: Graph, placement: Placement, calibration: Calibration) -> None:
    """Take the mean error that rounded weights make out of the biases, in place (section 4.2): for each output channel, the
    weights' rounding errors times the inputs' channel means. Raises CalibrationError where there are no means."""
    originals = {node.name: node for node in graph.nodes}
    nodes = {node.name: node for node in quantized.nodes}
    for name in placement.convolutions:
        node = originals[name]
        if node.op_type != "Conv":
            continue
        means = calibration.means.get(node.input[0])
        if means is None:
            raise CalibrationError(f"the calibration has no channel means of {node.input[0]}: calibrate again with images")
        error = _rounded(quantized, node.input[1]) - graph.value(node.input[1])
        kernel = error.sum(axis=tuple(range(2, error.ndim)))  # (out, in of a group)
        groups = len(means) // kernel.shape[1]
        inputs = np.asarray(means).reshape(groups, 1, kernel.shape[1])
        shift = (kernel.reshape(groups, -1, kernel.shape[1]) * inputs).sum(-1).reshape(-1)
        bias = graph.value(node.input[2]) if len(node.input) > 2 else np.zeros(len(kernel), np.float32)
        corrected = quantized.add_constant(f"{name}.corrected_bias", (bias - shift).astype(np.float32))
        nodes[name].input[:] = [*nodes[name].input[:2], corrected]


def _rounded(quantized: Graph, weight: str) -> NDArray[np.float32]:
    integers, scale = quantized.value(f"{weight}.q"), quantized.value(f"{weight}.scale")
    rounded: NDArray[np.float32] = integers.astype(np.float32) * scale.reshape(-1, *[1] * (integers.ndim - 1))
    return rounded
