"""FP32 graph + ranges → a graph with Q/DQ pairs, for TensorRT (signed, symmetric) or for ONNX Runtime's CPU kernels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from resnet_deploy.errors import GraphError, UsageError
from resnet_deploy.graph.graph import Graph
from resnet_deploy.precision.calibrate import Calibration, Range, symmetric_scale
from resnet_deploy.precision.placement import Placement, Target, place, same_range
from resnet_deploy.precisions import PRECISIONS, Precision

FP8_LARGEST = 448.0  # of E4M3 (2209.05433)
FP8_OPSET = 19
UNSIGNED_LEVELS = 255


@dataclass(frozen=True, kw_only=True)
class QuantizeOptions:
    """How a graph is quantized.

    Attributes:
        precision: INT8 or FP8.
        target: whose kernels.
        keep: layers, or what they lie under, that stay as they are.
        head: quantize the classifier too.
        clip_weights: for each channel, take the scale of the least squared error instead of the largest magnitude.
        reduce_range: 7 bits of weight, for CPUs whose 8-bit products saturate (AVX2 without VNNI).
    """

    precision: Precision = Precision.INT8
    target: Target = Target.TENSORRT
    keep: tuple[str, ...] = ()
    head: bool = False
    clip_weights: bool = False
    reduce_range: bool = False

    def __post_init__(self) -> None:
        row = self.precision.row
        if not row.quantized:
            quantized = " or ".join(row.name for row in PRECISIONS.values() if row.quantized)
            raise UsageError(f"{row.name} is not a quantized precision; choose {quantized}")
        if self.target.value not in row.targets:
            raise UsageError(f"ONNX Runtime's CPU kernels have no {row.name.upper()}; use the target {row.targets[0]}")


def quantize(graph: Graph, calibration: Calibration, options: QuantizeOptions | None = None) -> tuple[Graph, Placement]:
    """Quantize an FP32 graph. Activations have one scale a tensor, weights one an output channel (axis 0), biases stay float.

    Args:
        graph: an FP32 graph.
        calibration: the ranges of its tensors.
        options: by default INT8 for TensorRT.

    Returns:
        A quantized copy, and where its Q/DQ pairs are.

    Raises:
        GraphError: the graph is quantized already.
        CalibrationError: the ranges are another model's.
    """
    options = options or QuantizeOptions()
    graph.require_float32()
    without = _no_kernel(graph) if options.precision is Precision.FP8 else ()
    placement = place(graph, options.target, keep=(*options.keep, *without), head=options.head)
    calibration.require(graph, placement.activations)
    done = graph.copy()
    if options.precision is Precision.FP8 and graph.opset < FP8_OPSET:
        raise GraphError(f"{graph.source} has opset {graph.opset}; FP8 needs {FP8_OPSET} or more: export it with --opset")
    shared = same_range(graph, placement.activations) if options.target is Target.CPU else {}
    nodes = {node.name: node for node in done.nodes}
    for name, readers in placement.activations.items():
        tensor_range = calibration.ranges[shared.get(name, name)]
        _pair(done, name, [nodes[reader] for reader in readers], tensor_range, options)
    for name in placement.convolutions:
        _weight(done, nodes[name], options)
    done.sort()
    return done, placement


def _no_kernel(graph: Graph) -> list[str]:
    """Convolutions that TensorRT-RTX 1.7 computes in half precision although their inputs are FP8: the stem's 7x7."""
    convolutions = [node for node in graph.weighted() if node.op_type == "Conv"]
    return [node.name for node in convolutions if max(graph.constants[node.input[1]].dims[2:], default=1) > 3]


def _pair(graph: Graph, name: str, readers: Iterable[onnx.NodeProto], tensor_range: Range, options: QuantizeOptions) -> None:
    """Q and DQ behind a tensor, for those that read it through them."""
    scale, zero = _parameters(tensor_range, options)
    graph.add_constant(f"{name}.scale", np.float32(scale))
    graph.add_constant(f"{name}.zero_point", _zero_point(f"{name}.zero_point", zero, options))
    parameters = (f"{name}.scale", f"{name}.zero_point")
    integers = graph.add_node("QuantizeLinear", (name, *parameters), f"{name}.q", f"{name}.q")
    values = graph.add_node("DequantizeLinear", (integers, *parameters), f"{name}.dq", f"{name}.dq")
    for node in readers:
        graph.rewire(node, name, values)


def _parameters(tensor_range: Range, options: QuantizeOptions) -> tuple[float, int]:
    if options.precision is Precision.FP8:
        return symmetric_scale(tensor_range.largest, FP8_LARGEST), 0
    if options.target is Target.TENSORRT:
        return symmetric_scale(tensor_range.int8, 127), 0
    low, high = min(0.0, max(tensor_range.low, -tensor_range.uint8)), max(0.0, min(tensor_range.high, tensor_range.uint8))
    if low == high:
        return 1.0, 0
    scale = (high - low) / UNSIGNED_LEVELS
    return float(np.float32(scale)), int(np.clip(round(-low / scale), 0, UNSIGNED_LEVELS))


def _zero_point(name: str, zero: int, options: QuantizeOptions) -> onnx.TensorProto:
    if options.precision is Precision.FP8:
        return helper.make_tensor(name, TensorProto.FLOAT8E4M3FN, [], [0.0])
    dtype = np.int8 if options.target is Target.TENSORRT else np.uint8
    return numpy_helper.from_array(np.asarray(zero, dtype), name)


def _weight(graph: Graph, node: onnx.NodeProto, options: QuantizeOptions) -> None:
    """A weight as integers and their scales, per output channel."""
    name = node.input[1]
    if f"{name}.dq" not in graph.made_by:
        values, axis = graph.value(name), _axis(node)
        levels = FP8_LARGEST if options.precision is Precision.FP8 else 63 if options.reduce_range else 127
        scales = weight_scales(values, axis, levels, clip=options.clip_weights and options.precision is Precision.INT8)
        shape = [-1 if index == axis else 1 for index in range(values.ndim)]
        scaled = values / scales.reshape(shape)
        graph.add_constant(f"{name}.scale", scales)
        if options.precision is Precision.FP8:
            graph.add_constant(f"{name}.q", _float8(f"{name}.q", scaled))
            zero = helper.make_tensor(f"{name}.zero_point", TensorProto.FLOAT8E4M3FN, list(scales.shape), [0.0] * len(scales))
            graph.add_constant(zero.name, zero)
        else:
            graph.add_constant(f"{name}.q", np.clip(np.rint(scaled), -levels, levels).astype(np.int8))
            graph.add_constant(f"{name}.zero_point", np.zeros(scales.shape, np.int8))
        graph.add_node(
            "DequantizeLinear", (f"{name}.q", f"{name}.scale", f"{name}.zero_point"), f"{name}.dq", f"{name}.dq", axis=axis
        )  # fmt: skip
    graph.rewire(node, name, f"{name}.dq")


def _axis(node: onnx.NodeProto) -> int:
    """Of the output channels in a weight."""
    if node.op_type == "Conv":
        return 0
    transposed = any(item.name == "transB" and item.i for item in node.attribute)
    return 0 if transposed else 1


def _float8(name: str, values: NDArray[Any]) -> onnx.TensorProto:
    import ml_dtypes

    rounded = np.clip(values, -FP8_LARGEST, FP8_LARGEST).astype(ml_dtypes.float8_e4m3fn)
    return helper.make_tensor(name, TensorProto.FLOAT8E4M3FN, list(values.shape), rounded.tobytes(), raw=True)


def weight_scales(values: NDArray[Any], axis: int, levels: float, *, clip: bool = False) -> NDArray[np.float32]:
    """Of each output channel. clip: of least squared error over 80 shares of the largest magnitude, else the largest."""
    rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1).astype(np.float64)
    largest = np.abs(rows).max(1)
    best = largest.copy()
    if clip:
        least = np.full(len(rows), np.inf)
        for share in np.linspace(0.4, 1.0, 80):
            step = np.maximum(largest * share / levels, 1e-30)[:, None]
            error = ((np.clip(np.rint(rows / step), -levels, levels) * step - rows) ** 2).sum(1)
            best = np.where(error < least, largest * share, best)
            least = np.minimum(error, least)
    return np.array([symmetric_scale(float(value), levels) for value in best], np.float32)
