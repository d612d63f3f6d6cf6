"""Which channels of a graph must have the same factor where what writes a channel is multiplied and what reads it divided."""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import torch

from resnet_deploy.graph.graph import Graph

# One channel in, the same channel out, times any positive factor.
_SAME = frozenset({"Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "QuantizeLinear", "DequantizeLinear", "Identity"})
_SPATIAL = {2, 3}


class _Groups:
    """Sets of channels that share a factor (union-find). Set 0 is of those whose factor is 1."""

    def __init__(self) -> None:
        self.parent = [0]

    def fresh(self, count: int) -> list[int]:
        start = len(self.parent)
        self.parent += range(start, start + count)
        return list(range(start, start + count))

    def find(self, member: int) -> int:
        while self.parent[member] != member:
            self.parent[member] = self.parent[self.parent[member]]
            member = self.parent[member]
        return member

    def join(self, channels: Sequence[int], others: Sequence[int]) -> None:
        for left, right in zip(channels, others, strict=True):
            first, second = sorted((self.find(left), self.find(right)))
            self.parent[second] = first


def channels_of(graph: Graph, outputs: dict[str, int]) -> tuple[dict[str, torch.Tensor], int]:
    """Of each tensor the group of each channel, or one group for all where no channel may have a factor; how many groups there
    are. outputs: channels that each Conv and Gemm makes. Group 0 has the factor 1."""
    groups, channels = _Groups(), {graph.input.name: [0]}
    for node in graph.nodes:
        channels[node.output[0]] = _follow(graph, groups, channels, node, outputs)
    for name in graph.outputs:
        _fix(groups, channels[name])
    roots = {root: number for number, root in enumerate(sorted({groups.find(m) for m in range(len(groups.parent))}))}
    return {name: torch.tensor([roots[groups.find(m)] for m in members]) for name, members in channels.items()}, len(roots)


def _fix(groups: _Groups, members: Sequence[int]) -> list[int]:
    groups.join(members, [0] * len(members))
    return [0]


def _follow(
    graph: Graph, groups: _Groups, channels: dict[str, list[int]], node: onnx.NodeProto, outputs: dict[str, int]
) -> list[int]:
    """The channels that leave a node; joins those that it makes dependent on each other."""
    inputs = [channels[name] for name in node.input if name in channels]
    if node.op_type == "Conv":
        return groups.fresh(outputs[node.name])
    if node.op_type in _SAME and inputs:
        return inputs[0]
    if node.op_type in {"ReduceMean", "Slice", "Pad", "Flatten"} and len(inputs[0]) > 1:
        if (kept := _reshaped(graph, groups, inputs[0], node)) is not None:
            return kept
    elif node.op_type == "Add" and len(inputs) == 2 and len(inputs[0]) == len(inputs[1]):
        groups.join(*inputs)
        return inputs[0]
    elif node.op_type == "Mul" and len(inputs) == 2 and [0] in inputs:
        return inputs[1] if inputs[0] == [0] else inputs[0]
    elif node.op_type == "Gemm" and _reads_channels(graph, node, inputs[0]):
        return [0]
    for members in inputs:
        _fix(groups, members)
    return [0]


def _reads_channels(graph: Graph, node: onnx.NodeProto, members: list[int]) -> bool:
    """Whether a classifier reads one value of each channel."""
    name = str(node.input[1])
    weight = graph.constants[name if name in graph.constants else f"{name.removesuffix('.dq')}.q"]
    transposed = any(item.name == "transB" and item.i for item in node.attribute)
    return bool(len(members) == weight.dims[1 if transposed else 0])


def _reshaped(graph: Graph, groups: _Groups, members: list[int], node: onnx.NodeProto) -> list[int] | None:
    """Channels after a node that leaves them where they are, or puts zeros beside them; None for others."""
    constants = [graph.value(name).tolist() if name in graph.constants else None for name in node.input[1:]]
    attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    if node.op_type == "Flatten":
        return members
    if node.op_type == "ReduceMean":
        axes = constants[0] if constants else attributes.get("axes")
        return members if axes is not None and {axis % 4 for axis in axes} <= _SPATIAL else None
    if node.op_type == "Slice":
        axes = constants[2] if len(constants) > 2 else None
        return members if axes is not None and {axis % 4 for axis in axes} <= _SPATIAL else None
    pads = constants[0]
    zeros = attributes.get("mode", b"constant") == b"constant" and (len(constants) < 2 or not constants[1])
    if not zeros or pads is None or len(pads) != 8:
        return None
    return [*groups.fresh(pads[1]), *members, *groups.fresh(pads[5])]
