"""A graph's blocks: what is judged and tuned as one, and what leaves each of them."""

from __future__ import annotations

import re
from collections.abc import Iterable

from resnet_deploy.graph.graph import Graph

# Also in the names that other exporters write: `/layer1/layer1.0/conv1/Conv`.
_BLOCK = re.compile(r"(?:^|/)((?:members\.\d+\.)?layer\d+\.\d+)[./]")


def block_of(name: str) -> str:
    """`layer1.0` for everything in it; a layer outside of blocks is its own."""
    match = _BLOCK.search(name)
    return match[1] if match else name


def blocks_of(graph: Graph, nodes: Iterable[str]) -> dict[str, list[str]]:
    """Nodes by block, in the graph's order."""
    wanted, blocks = set(nodes), dict[str, list[str]]()
    for node in graph.nodes:
        if node.name in wanted:
            blocks.setdefault(block_of(node.name), []).append(node.name)
    return blocks


def leaving(graph: Graph) -> dict[str, str]:
    """The tensor that leaves each block, in order: the last that it makes. Layers with weights outside of blocks count."""
    weighted = {node.name for node in graph.weighted()}
    tensors: dict[str, str] = {}
    for node in graph.nodes:
        block = block_of(node.name)
        if block != node.name or node.name in weighted:
            tensors[block] = node.output[0]
    return tensors
