"""Operators of exported residual networks in torch: what a graph must be made of to be trained through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnx
import torch
from torch.nn import functional

from resnet_deploy.errors import GraphError

Values = list[Any]
Attributes = dict[str, Any]


def attributes(node: onnx.NodeProto) -> Attributes:
    """By name; `op` is the node, for messages."""
    attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    return attributes | {"op": f"{node.op_type} ({node.name})"}


def _padded(values: Any, attributes: Attributes, fill: float) -> tuple[Any, list[int]]:
    """With padding that torch cannot have in the operator itself, and that which it can."""
    if attributes.get("auto_pad", b"NOTSET") not in {b"NOTSET", b"VALID"}:
        raise GraphError(f"{attributes['op']} has auto_pad, which cannot be trained through; give its pads")
    top, left, bottom, right = attributes.get("pads", [0, 0, 0, 0])
    if (top, left) == (bottom, right):
        return values, [top, left]
    return functional.pad(values, (left, right, top, bottom), value=fill), [0, 0]


def _conv(v: Values, a: Attributes) -> Any:
    values, pads = _padded(v[0], a, 0.0)
    return functional.conv2d(values, v[1], v[2], a.get("strides", 1), pads, a.get("dilations", 1), a.get("group", 1))


def _gemm(v: Values, a: Attributes) -> Any:
    """The weight has its outputs first, whatever transB says."""
    if a.get("transA", 0):
        raise GraphError(f"{a['op']} has transA, which cannot be trained through")
    return functional.linear(v[0], v[1] * a.get("alpha", 1.0), v[2] * a.get("beta", 1.0))


def _max_pool(v: Values, a: Attributes) -> Any:
    values, pads = _padded(v[0], a, float("-inf"))
    size, steps, dilations = a["kernel_shape"], a.get("strides", 1), a.get("dilations", 1)
    return functional.max_pool2d(values, size, steps, pads, dilations, bool(a.get("ceil_mode", 0)))


def _average_pool(v: Values, a: Attributes) -> Any:
    top, left, bottom, right = a.get("pads", [0, 0, 0, 0])
    if (top, left) != (bottom, right) or a.get("auto_pad", b"NOTSET") not in {b"NOTSET", b"VALID"}:
        raise GraphError(f"{a['op']} is padded on one side, which cannot be trained through")
    counted = bool(a.get("count_include_pad", 0))
    return functional.avg_pool2d(
        v[0], a["kernel_shape"], a.get("strides", 1), [top, left], bool(a.get("ceil_mode", 0)), counted
    )


def _norm(v: Values, a: Attributes) -> Any:
    values, gamma, beta, mean, variance = v[:5]
    return functional.batch_norm(values, mean, variance, gamma, beta, eps=a.get("epsilon", 1e-5))


def _slice(v: Values, a: Attributes) -> Any:
    values, starts, ends = v[0], v[1].tolist(), v[2].tolist()
    axes = v[3].tolist() if len(v) > 3 and v[3] is not None else list(range(len(starts)))
    steps = v[4].tolist() if len(v) > 4 and v[4] is not None else [1] * len(starts)
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        if step < 0:
            raise GraphError(f"{a['op']} goes backwards, which cannot be trained through")
        index = [slice(None)] * values.ndim
        index[axis] = slice(start, end, step)
        values = values[tuple(index)]
    return values


def _pad(v: Values, a: Attributes) -> Any:
    if a.get("mode", b"constant") != b"constant" or (len(v) > 3 and v[3] is not None):
        raise GraphError(f"{a['op']} pads with other than a constant, which cannot be trained through")
    pads = v[1].tolist()
    half = len(pads) // 2
    pairs = [size for axis in reversed(range(half)) for size in (pads[axis], pads[half + axis])]
    return functional.pad(v[0], pairs, value=float(v[2]) if len(v) > 2 and v[2] is not None else 0.0)


def _axes(v: Values, a: Attributes) -> list[int]:
    """Of a reduction: an input in new opsets, an attribute in old ones."""
    axes = v[1].tolist() if len(v) > 1 and v[1] is not None else a.get("axes")
    return list(axes) if axes is not None else list(range(v[0].ndim))


def _reshape(v: Values, a: Attributes) -> Any:
    return v[0].reshape([v[0].shape[axis] if size == 0 else size for axis, size in enumerate(v[1].tolist())])


def _unsqueeze(v: Values, a: Attributes) -> Any:
    values = v[0]
    for axis in sorted(_axes(v, a)):
        values = values.unsqueeze(axis)
    return values


def _cast(v: Values, a: Attributes) -> Any:
    if a["to"] != onnx.TensorProto.FLOAT:
        raise GraphError(f"{a['op']} casts to another type than FP32, which cannot be trained through")
    return v[0].to(torch.float32)


OPS: dict[str, Callable[[Values, Attributes], Any]] = {
    "Conv": _conv,
    "Gemm": _gemm,
    "MaxPool": _max_pool,
    "AveragePool": _average_pool,
    "BatchNormalization": _norm,
    "Slice": _slice,
    "Pad": _pad,
    "Reshape": _reshape,
    "Unsqueeze": _unsqueeze,
    "Cast": _cast,
    "GlobalAveragePool": lambda v, a: v[0].mean((2, 3), keepdim=True),
    "ReduceMean": lambda v, a: v[0].mean(_axes(v, a), keepdim=bool(a.get("keepdims", 1))),
    "ReduceLogSumExp": lambda v, a: v[0].logsumexp(_axes(v, a), keepdim=bool(a.get("keepdims", 1))),
    "Relu": lambda v, a: v[0].relu(),
    "Sigmoid": lambda v, a: v[0].sigmoid(),
    "Softmax": lambda v, a: v[0].softmax(a.get("axis", -1)),
    "LogSoftmax": lambda v, a: v[0].log_softmax(a.get("axis", -1)),
    "Add": lambda v, a: v[0] + v[1],
    "Sub": lambda v, a: v[0] - v[1],
    "Mul": lambda v, a: v[0] * v[1],
    "Div": lambda v, a: v[0] / v[1],
    "Concat": lambda v, a: torch.cat(v, a["axis"]),
    "Flatten": lambda v, a: v[0].flatten(1) if a.get("axis", 1) == 1 else _refuse(a),
    "Transpose": lambda v, a: v[0].permute(a["perm"]),
    "Identity": lambda v, a: v[0],
}


def _refuse(a: Attributes) -> Any:
    raise GraphError(f"{a['op']} cannot be trained through")
