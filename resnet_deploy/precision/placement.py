"""Where Q/DQ pairs go. Nothing here knows a scale: the result is a list of tensors and of who reads them quantized."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from enum import Enum

import onnx

from resnet_deploy.errors import UsageError
from resnet_deploy.graph.graph import Graph


class Target(str, Enum):
    """Whose kernels the quantized graph is written for."""

    TENSORRT = "tensorrt"
    CPU = "cpu"


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where Q/DQ pairs are.

    Attributes:
        convolutions: names of the nodes that compute quantized.
        activations: each quantized tensor, in order, with the names of the nodes that read it through Q/DQ; the others read
            it as it is.
    """

    convolutions: tuple[str, ...]
    activations: dict[str, tuple[str, ...]] = field(default_factory=dict)


_POOLS = frozenset({"ReduceMean", "GlobalAveragePool"})


def place(graph: Graph, target: Target, *, keep: Collection[str] = (), head: bool = False) -> Placement:
    """Choose where a target's kernels need Q/DQ pairs.

    tensorrt: on the data input of every quantized convolution, and on the skip side of every residual addition whose other
    side ends in one, down-sampling ones too, so that convolution, addition and ReLU become one kernel; never between a
    convolution and its own addition (docs.nvidia.com/deeplearning/tensorrt, "Explicit Quantization"). cpu: on every tensor
    that a quantized convolution, an addition or a pooling makes or reads, which is what ONNX Runtime's kernels need on both
    of their sides.

    Args:
        graph: an FP32 graph.
        target: whose kernels.
        keep: names of nodes, or prefixes of names such as `layer1.0`, that stay as they are.
        head: quantize the classifier too.

    Returns:
        The placement.

    Raises:
        UsageError: a name keeps nothing.
    """
    convolutions = _chosen(graph, keep, head)
    if target is Target.TENSORRT:
        return Placement(convolutions=tuple(convolutions), activations=_tensorrt(graph, convolutions))
    return Placement(convolutions=tuple(convolutions), activations=_cpu(graph, convolutions))


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a node is one of these names or lies under one: `layer1.0` has `layer1.0.conv1`."""
    return any(name == pattern or name.startswith(f"{pattern}.") for pattern in patterns)


def gates(graph: Graph) -> set[str]:
    """Nodes of squeeze-and-excitation: what computes on pooled values that end in a product with the map. They cost next
    to nothing, and a sigmoid of eight bits scales whole channels wrongly."""
    pooled: set[str] = set()
    convolutions: set[str] = set()
    for node in graph.nodes:
        if node.op_type in _POOLS or (node.input and node.input[0] in pooled and node.op_type != "Mul"):
            pooled |= set(node.output)
            if node.op_type == "Conv":
                convolutions.add(node.name)
    return convolutions


def grouped(graph: Graph) -> list[str]:
    """Convolutions with more than one group, as in ResNeXt."""
    return [
        node.name
        for node in graph.weighted()
        if node.op_type == "Conv" and any(item.name == "group" and item.i > 1 for item in node.attribute)
    ]


def additions(graph: Graph) -> dict[str, tuple[str, str]]:
    """Every residual addition: its name → (the tensor of the main side, that of the skip side).

    The main side is the one with more convolutions behind it.
    """
    depth = depths(graph)
    sides = {}
    for node in graph.nodes:
        if node.op_type != "Add" or any(name in graph.constants for name in node.input):
            continue
        skip, main = sorted(node.input, key=lambda name: depth.get(name, 0))
        if depth.get(main, 0) > depth.get(skip, 0):
            sides[node.name] = (main, skip)
    return sides


def _chosen(graph: Graph, keep: Collection[str], head: bool) -> list[str]:
    gated = gates(graph)
    kinds = {"Conv", "Gemm", "MatMul"} if head else {"Conv"}
    weighted = [node for node in graph.weighted() if node.op_type in kinds and node.name not in gated]
    names = [node.name for node in graph.nodes]
    for pattern in keep:
        if not any(matches(name, [pattern]) for name in names):
            raise UsageError(f"no layer or module is called {pattern}; `resnet-deploy inspect` lists them")
    return [node.name for node in weighted if not matches(node.name, keep)]


def depths(graph: Graph) -> dict[str, int]:
    """Convolutions behind each tensor, along the longest way."""
    depth: dict[str, int] = {}
    for node in graph.nodes:  # in topological order, as the checker demands
        behind = max((depth.get(name, 0) for name in node.input), default=0)
        for output in node.output:
            depth[output] = behind + (node.op_type == "Conv")
    return depth


def _ends_quantized(graph: Graph, tensor: str, convolutions: set[str]) -> bool:
    """Whether the main side of an addition comes from a quantized convolution, through a gate or a ReLU at most."""
    node = graph.made_by.get(tensor)
    while node is not None and node.op_type in {"Mul", "Relu"}:
        node = graph.made_by.get(node.input[0])
    return node is not None and node.name in convolutions


def _tensorrt(graph: Graph, convolutions: list[str]) -> dict[str, tuple[str, ...]]:
    chosen, readers = set(convolutions), dict[str, list[str]]()
    added = additions(graph)
    for node in graph.nodes:
        if node.name in chosen:
            readers.setdefault(node.input[0], []).append(node.name)
        elif node.name in added and _ends_quantized(graph, added[node.name][0], chosen):
            readers.setdefault(added[node.name][1], []).append(node.name)
    return {name: tuple(names) for name, names in readers.items()}


def _cpu(graph: Graph, convolutions: list[str]) -> dict[str, tuple[str, ...]]:
    """All readers of a tensor read it through its pair: ONNX Runtime drops what is not needed between two of its kernels."""
    chosen, added = set(convolutions), additions(graph)
    wanted: dict[str, None] = {}
    for node in graph.nodes:
        if node.name in chosen:
            wanted |= {node.input[0]: None, _activated(graph, node): None}
        elif node.name in added and _ends_quantized(graph, added[node.name][0], chosen):
            wanted |= {**dict.fromkeys(node.input), _activated(graph, node): None}
        elif node.op_type == "MaxPool" and node.input[0] in wanted:
            wanted |= {node.output[0]: None}
    names = {name: tuple(node.name for node in graph.used_by.get(name, [])) for name in wanted}
    return {name: readers for name, readers in names.items() if readers}


def _activated(graph: Graph, node: onnx.NodeProto) -> str:
    """What leaves a node, after the ReLU that is its only reader."""
    readers = graph.used_by.get(node.output[0], [])
    if len(readers) == 1 and readers[0].op_type == "Relu" and node.output[0] not in graph.outputs:
        return str(readers[0].output[0])
    return str(node.output[0])


def same_range(graph: Graph, activations: Iterable[str]) -> dict[str, str]:
    """Tensors that only select from another quantized one (max-pooling) → that one: they share its scale, so that a kernel
    can work on the integers."""
    names = set(activations)
    sources = {}
    for name in names:
        node = graph.made_by.get(name)
        if node is not None and node.op_type == "MaxPool" and node.input[0] in names:
            sources[name] = node.input[0]
    return sources
