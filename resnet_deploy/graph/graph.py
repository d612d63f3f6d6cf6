"""An ONNX graph with the questions that precision asks of it: who makes a tensor, who reads it, what is constant."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from resnet_deploy._files import flush, writing
from resnet_deploy.errors import GraphError
from resnet_deploy.graph.onnx_files import MAX_EXPANDED, check_model, expanded_nodes, invalid, load_external, parse_model

QUANTIZED = frozenset({"QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"})
FLOATING = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE}


class Graph:
    """A model's main graph. Changes go through `add_node`, `rewire` and `add_constant`; `save` sorts and checks.

    Args:
        model: the parsed file; it is changed in place.
        source: what messages call it.
    """

    def __init__(self, model: onnx.ModelProto, source: str = "the graph") -> None:
        self.model = model
        self.source = source
        self.index()

    @classmethod
    def read(cls, path: str | Path) -> Graph:
        """Read an ONNX file, its weights too where they are in files beside it. Raises GraphError for what is not valid."""
        path = Path(path)
        model = parse_model(path)
        check_model(path)
        if (nodes := expanded_nodes(model)) > MAX_EXPANDED:
            raise invalid(path, f"it has {nodes:,} nodes, those of its functions counted where they are called; at most "
                          f"{MAX_EXPANDED:,} are worked on")  # fmt: skip
        load_external(model, path)
        graph = cls(model, str(path))
        try:
            graph.normalize()
        except (ValueError, TypeError, IndexError) as exc:  # shapes and types that the checker does not compare
            raise invalid(path, exc) from exc
        return graph

    def normalize(self) -> None:
        """What other exporters write, as ours does: constants as initializers, batch norms in the convolutions before them."""
        for node in self.nodes:
            value = next((item for item in node.attribute if item.name == "value"), None)
            if node.op_type == "Constant" and value is not None:
                tensor = onnx.TensorProto.FromString(value.t.SerializeToString())
                tensor.name = node.output[0]
                self.add_constant(tensor.name, tensor)
                self.model.graph.node.remove(node)
        self.index()
        for node in self.nodes:
            if node.op_type == "BatchNormalization":
                self._fold(node)
        self.index()

    def _fold(self, norm: onnx.NodeProto) -> None:
        """A batch norm into the convolution that it alone follows."""
        conv = self.made_by.get(norm.input[0])
        parameters = [*norm.input[1:], *(conv.input[1:] if conv is not None else ())]
        if conv is None or conv.op_type != "Conv" or any(name not in self.constants for name in parameters):
            return
        if len(self.used_by[norm.input[0]]) > 1 or norm.input[0] in self.outputs or len(self.used_by[conv.input[1]]) > 1:
            return
        channels = list(self.constants[conv.input[1]].dims[:1])
        if any(list(self.constants[name].dims) != channels for name in (*norm.input[1:], *conv.input[2:])):
            raise GraphError(f"{self.source}: the batch norm {norm.name!r} is not of {channels} channels, as {conv.name!r} is")
        gamma, beta, mean, variance = (self.value(name).astype(np.float64) for name in norm.input[1:])
        epsilon = next((item.f for item in norm.attribute if item.name == "epsilon"), 1e-5)
        if not (variance + epsilon > 0).all():
            raise GraphError(f"{self.source}: the batch norm {norm.name!r} has a variance of {np.nanmin(variance):g}")
        scale, weight = gamma / np.sqrt(variance + epsilon), self.value(conv.input[1])
        bias = self.value(conv.input[2]) if len(conv.input) > 2 else 0.0
        shaped = scale.reshape(-1, *[1] * (weight.ndim - 1))
        self.add_constant(conv.input[1], (weight * shaped).astype(np.float32))
        folded = self.add_constant(f"{conv.name}.folded_bias", ((bias - mean) * scale + beta).astype(np.float32))
        conv.input[:] = [*conv.input[:2], folded]
        conv.output[0] = norm.output[0]
        self.model.graph.node.remove(norm)

    def index(self) -> None:
        """Look again at what the nodes are, after they were changed by hand."""
        graph = self.model.graph
        self.constants: dict[str, onnx.TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        self._name_nodes()
        self.made_by: dict[str, onnx.NodeProto] = {output: node for node in graph.node for output in node.output if output}
        self.used_by: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                self.used_by.setdefault(name, []).append(node)
        self.outputs = [value.name for value in graph.output]

    def _name_nodes(self) -> None:
        """Give every node a name of its own: ONNX lets nodes have none, or the same."""
        taken: set[str] = set()
        for index, node in enumerate(self.model.graph.node):
            name = wanted = node.name or f"{node.op_type.lower()}_{index}"
            number = 2
            while name in taken:
                name, number = f"{wanted}_{number}", number + 1
            taken.add(name)
            if name != node.name:
                node.name = name

    @property
    def nodes(self) -> list[onnx.NodeProto]:
        return list(self.model.graph.node)

    @property
    def input(self) -> onnx.ValueInfoProto:
        """The one input that is not a constant. Raises GraphError where there are more."""
        inputs = [value for value in self.model.graph.input if value.name not in self.constants]
        if len(inputs) != 1:
            raise GraphError(f"{self.source} has {len(inputs)} inputs; a residual network has one")
        return inputs[0]

    @property
    def opset(self) -> int:
        return next((int(item.version) for item in self.model.opset_import if item.domain in {"", "ai.onnx"}), 0)

    def require_float32(self) -> None:
        """Raise GraphError where there is nothing left to quantize or cast: it is done already, naming the first layer."""
        for node in self.nodes:
            if node.op_type in QUANTIZED:
                raise GraphError(f"{self.source} is quantized already ({node.op_type} {node.name}); give the FP32 graph")
        for name, tensor in self.constants.items():
            if tensor.data_type in FLOATING - {onnx.TensorProto.FLOAT}:
                kind = onnx.TensorProto.DataType.Name(tensor.data_type).lower()
                raise GraphError(f"{self.source} is not FP32: {name} is {kind}; give the FP32 graph")

    def value(self, name: str) -> NDArray[Any]:
        """A constant's values."""
        return np.asarray(numpy_helper.to_array(self.constants[name]))

    def weighted(self) -> list[onnx.NodeProto]:
        """Convolutions and matrix products whose weight is a constant, in order."""
        kinds = {"Conv", "Gemm", "MatMul"}
        return [n for n in self.nodes if n.op_type in kinds and len(n.input) > 1 and n.input[1] in self.constants]

    def add_constant(self, name: str, values: NDArray[Any] | np.generic | onnx.TensorProto) -> str:
        """Add or replace a constant.

        Args:
            name: of the tensor.
            values: a scalar stays a scalar: TensorRT takes a scale of shape [1] for one that is per axis, and silently computes
                the layer in floating point.

        Returns:
            The name.
        """
        tensor = values if isinstance(values, onnx.TensorProto) else numpy_helper.from_array(np.asarray(values), name)
        if name in self.constants:
            self.constants[name].CopyFrom(tensor)
            self.constants[name].name = name
        else:
            self.model.graph.initializer.append(tensor)
            self.constants[name] = self.model.graph.initializer[-1]
        return name

    def add_node(self, kind: str, inputs: Iterable[str], output: str, name: str, **attributes: Any) -> str:
        """Append a node; `save` puts it where it belongs.

        Args:
            kind: the ONNX operator.
            inputs: names of the tensors that it reads.
            output: name of the one that it makes.
            name: of the node.
            **attributes: of the operator.

        Returns:
            The output's name.
        """
        self.model.graph.node.append(helper.make_node(kind, list(inputs), [output], name=name, **attributes))
        self.made_by[output] = self.model.graph.node[-1]
        return output

    def rewire(self, node: onnx.NodeProto, old: str, new: str) -> None:
        """Let a node read another tensor.

        Args:
            node: one of the graph's.
            old: the tensor that it reads.
            new: the tensor that it is to read instead.
        """
        node.input[:] = [new if name == old else name for name in node.input]

    def expose(self, names: Iterable[str]) -> None:
        """Make tensors outputs too. Their types are left to who runs the graph: `save` would refuse it."""
        wanted = [name for name in dict.fromkeys(names) if name not in self.outputs]
        self.model.graph.output.extend(map(helper.make_empty_tensor_value_info, wanted))

    def prune(self) -> None:
        """Drop constants and nodes that nothing reads."""
        graph = self.model.graph
        while True:
            read = {name for node in graph.node for name in node.input} | set(self.outputs)
            dead = [node for node in graph.node if not read & set(node.output)]
            if not dead:
                break
            for node in dead:
                graph.node.remove(node)
        kept = [tensor for tensor in graph.initializer if tensor.name in read]
        del graph.initializer[:]
        graph.initializer.extend(kept)
        known = {output for node in graph.node for output in node.output}
        values = [value for value in graph.value_info if value.name in known]
        del graph.value_info[:]
        graph.value_info.extend(values)
        self.index()

    def sort(self) -> None:
        """Nodes after what they read, otherwise in their order (Kahn's algorithm)."""
        nodes = self.nodes
        maker = {output: index for index, node in enumerate(nodes) for output in node.output}
        needs = [{maker[name] for name in node.input if name in maker} for node in nodes]
        readers: dict[int, list[int]] = {}
        for index, makers in enumerate(needs):
            for other in makers:
                readers.setdefault(other, []).append(index)
        waiting = [len(makers) for makers in needs]
        ready = [index for index, count in enumerate(waiting) if count == 0]
        ordered = []
        while ready:
            index = heapq.heappop(ready)
            ordered.append(onnx.NodeProto.FromString(nodes[index].SerializeToString()))
            for reader in readers.get(index, []):
                waiting[reader] -= 1
                if waiting[reader] == 0:
                    heapq.heappush(ready, reader)
        if len(ordered) < len(nodes):
            raise GraphError(f"{self.source} has a loop")
        del self.model.graph.node[:]
        self.model.graph.node.extend(ordered)
        self.index()

    def save(self, path: str | Path) -> None:
        """Pruned, sorted and checked. Raises GraphError where the result is not valid ONNX, StorageError on a full disk."""
        path = Path(path)
        self.prune()
        self.sort()
        with writing(path), path.open("wb") as file:
            file.write(self.model.SerializeToString(deterministic=True))
        flush(path)
        try:
            onnx.checker.check_model(str(path), full_check=True)
        except Exception as exc:  # the checker and shape inference have no common base
            path.unlink(missing_ok=True)
            raise GraphError(f"the graph made from {self.source} is not valid: {str(exc).splitlines()[0][:300]}") from exc

    def copy(self) -> Graph:
        copied = onnx.ModelProto()
        copied.CopyFrom(self.model)
        return Graph(copied, self.source)
