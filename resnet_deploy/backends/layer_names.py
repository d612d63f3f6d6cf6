"""Which nodes of an ONNX file an optimized layer was made of: runtimes fuse, rename and reorder."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from resnet_deploy.backends.layers import title

_WEIGHTED = {"Conv", "Gemm", "MatMul"}
_MOVES = {"Cast", "ReorderInput", "ReorderOutput", "Transpose"}  # added between layers, under the names of their tensors
_ADDED = re.compile(r"^InsertedPrecisionFreeCast_|(?:_nchwc|_token_\d+|_d?q|_original|/WithoutBiases)+$")


class OnnxNames:
    """The nodes of an ONNX file in their order. Weights are not needed; a file's are read where they are inside it."""

    def __init__(self, path: Path) -> None:
        import onnx

        self.graph: Any = onnx.load(path, load_external_data=False).graph
        self.kinds = {node.name: node.op_type for node in self.graph.node}
        self._maker = {output: node.name for node in self.graph.node for output in node.output}
        self._readers: dict[str, list[str]] = {}
        for node in self.graph.node:
            for name in node.input:
                self._readers.setdefault(name, []).append(node.name)
        self._order = {name: place for place, name in enumerate(self.kinds)}

    def known(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of some names that are nodes, as a runtime may have altered them, once each and in order."""
        nodes = {node for name in names if (node := self.node(name)) is not None}
        return tuple(sorted(nodes, key=self._order.__getitem__))

    def node(self, name: str) -> str | None:
        """The node of a runtime's name, which may be its output's; None for what the runtime added."""
        plain = _ADDED.sub("", name)
        return next((candidate for candidate in (name, plain) if candidate in self.kinds), self._maker.get(plain))

    def title(self, made_of: tuple[str, ...], otherwise: str) -> str:
        """The node that names a group: its convolution or matrix product, where it has one. otherwise: the runtime's name."""
        plain = _ADDED.sub("", otherwise)
        return next((name for name in made_of if self.kinds[name] in _WEIGHTED), None) or title(made_of, plain)

    def origins(self, optimized: Any) -> dict[str, tuple[str, ...]]:
        """Of each node of an optimized graph, the nodes that it was made of.

        A node is claimed by name, by an output or by a constant that it alone reads. Of the rest, what has weights goes, as
        DequantizeLinear does, with what reads it, and anything else with what it reads, the later of two.
        """
        claims = self._claims(optimized)
        place = {node.name: number for number, node in enumerate(optimized.node)}
        for node in reversed(self.graph.node):
            if node.name not in claims and (node.op_type in _WEIGHTED or node.op_type == "DequantizeLinear"):
                after = [
                    claims[reader] for output in node.output for reader in self._readers.get(output, ()) if reader in claims
                ]
                claims |= {node.name: after[0]} if after else {}
        for node in self.graph.node:
            if node.name not in claims:
                before = [claims[self._maker[name]] for name in node.input if self._maker.get(name) in claims]
                claims |= {node.name: max(before, key=place.__getitem__)} if before else {}
        sources: dict[str, list[str]] = {node.name: [] for node in optimized.node}
        for name in self.kinds:
            if name in claims:
                sources[claims[name]].append(name)
        return {name: tuple(made_of) for name, made_of in sources.items()}

    def _claims(self, optimized: Any) -> dict[str, str]:
        """Nodes whose optimized node is certain."""
        constants = {tensor.name for tensor in self.graph.initializer}
        claims: dict[str, str] = {}
        for node in optimized.node:
            own = [self.node(node.name), *(self._maker.get(output) for output in node.output)]
            own += [self._readers[name][0] for name in node.input if name in constants and len(self._readers[name]) == 1]
            for name in own:
                if name is not None and (node.op_type not in _MOVES or node.op_type == self.kinds[name]):
                    claims.setdefault(name, node.name)
        return claims
