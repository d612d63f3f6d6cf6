"""FP32 (or quantized) graph → FP16 or BF16, as tensor types and casts: what stays FP32 is chosen, and seen in the graph."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from resnet_deploy.errors import GraphError, UsageError
from resnet_deploy.graph.graph import Graph
from resnet_deploy.precision.calibrate import FP16_LARGEST
from resnet_deploy.precision.placement import matches
from resnet_deploy.precisions import Precision

BF16_OPSET = 22  # the first in which Conv takes BF16
_TYPES = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
# A network's end: sums of many values, exponentials, and the scores that people compare.
_HEAD = frozenset({
    "ReduceMean", "GlobalAveragePool", "ReduceSum", "ReduceL2", "ReduceLogSumExp", "Softmax", "LogSoftmax", "TopK", "Gemm",
    "MatMul", "Div", "Sub", "Expand", "Concat", "Unsqueeze", "Clip", "Shape", "Flatten", "Reshape", "Log",
})  # fmt: skip


def cast(
    graph: Graph, precision: Precision, *, native_io: bool = False, keep: Collection[str] = (), head: bool = False
) -> Graph:
    """Cast a graph to FP16 or BF16: its convolutions and what lies between them.

    The pooling before the classifier, the classifier and what follows stay FP32, unless head: together they are a
    thousandth of a network's work and most of what casting them would cost. Before the first convolution, normalization
    stays FP32 as well.

    Args:
        graph: an FP32 graph, or a quantized one whose other layers are to be cast.
        precision: FP16 or BF16.
        native_io: inputs and outputs take the precision too (float ones; pixels and indices stay).
        keep: layers, or what they lie under, that stay FP32.
        head: cast the classifier too.

    Returns:
        A copy.

    Raises:
        GraphError: a weight is beyond the precision's range.
    """
    if precision.row.element not in _TYPES:
        raise UsageError(f"{precision.value} is not a precision to cast to; choose fp16 or bf16")
    done = graph.copy()
    done.sort()
    if precision is Precision.BF16:
        _raise_opset(done)
    low, types = _low(done, keep, head), _types(done)
    element = _TYPES[precision.row.element]
    _constants(done, low, element)
    _boundaries(done, low, element, types)
    if native_io:
        _native(done, element)
    del done.model.graph.value_info[:]  # their types are of before
    done.index()
    return done


def _raise_opset(graph: Graph) -> None:
    if graph.opset < BF16_OPSET:
        try:
            graph.model = onnx.version_converter.convert_version(graph.model, BF16_OPSET)
        except Exception as exc:  # the converter's C++ exceptions have no base
            raise GraphError(f"{graph.source} cannot be raised to opset {BF16_OPSET}, which BF16 needs: {exc}") from exc
        graph.index()


def _low(graph: Graph, keep: Collection[str], head: bool) -> set[str]:
    """Names of the nodes that compute in the lower precision: from the first convolution on, to the head."""
    after: set[str] = set()  # tensors that depend on a convolution
    tail: set[str] = set()  # tensors that depend on the last pooling
    reaches = _before_convolutions(graph)
    low = set()
    for node in graph.nodes:
        if node.op_type == "Conv" or any(name in after for name in node.input):
            after |= set(node.output)
        else:
            continue
        ends = any(name in tail for name in node.input) or (
            # The pooling of squeeze-and-excitation is followed by a convolution: it is not the network's end.
            node.op_type in _HEAD and not any(output in reaches for output in node.output)
        )
        if ends:
            tail |= set(node.output)
        if matches(node.name, keep) or (ends and not head) or node.op_type in {"TopK", "Shape"}:
            continue
        low.add(node.name)
    return low | _quantizers(graph, low)


def _before_convolutions(graph: Graph) -> set[str]:
    """Tensors from which a convolution can still be reached."""
    reaches: set[str] = set()
    for node in reversed(graph.nodes):
        if node.op_type == "Conv" or any(output in reaches for output in node.output):
            reaches |= set(node.input)
    return reaches


def _quantizers(graph: Graph, low: set[str]) -> set[str]:
    """Q/DQ pairs before the first convolution, and of weights: they take the precision of who reads them."""
    quantizers = set()
    for node in reversed(graph.nodes):
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            readers = [reader.name for output in node.output for reader in graph.used_by.get(output, [])]
            if readers and all(name in low or name in quantizers for name in readers):
                quantizers.add(node.name)
    return quantizers


_FLOAT_ONLY = {"QuantizeLinear": (0, 1), "DequantizeLinear": (1,)}  # inputs of the float type; the others are integers


def _float_inputs(node: onnx.NodeProto) -> list[int]:
    return list(_FLOAT_ONLY.get(node.op_type, range(len(node.input))))


def _constants(graph: Graph, low: set[str], element: int) -> None:
    """Copies of the constants that low nodes read, in the lower precision."""
    for node in graph.nodes:
        if node.name not in low:
            continue
        for index in _float_inputs(node):
            name = node.input[index]
            tensor = graph.constants.get(name)
            if tensor is None or tensor.data_type != TensorProto.FLOAT:
                continue
            lowered = f"{name}.low"
            if lowered not in graph.constants:
                graph.add_constant(lowered, _lowered(graph, name, lowered, element))
            node.input[index] = lowered
    graph.prune()
    for tensor in graph.model.graph.initializer:  # the plain name again, where nothing reads the FP32 one
        plain = tensor.name.removesuffix(".low")
        if plain != tensor.name and plain not in graph.constants:
            for node in graph.used_by.get(tensor.name, []):
                graph.rewire(node, tensor.name, plain)
            tensor.name = plain
    graph.index()


def _lowered(graph: Graph, name: str, lowered: str, element: int) -> onnx.TensorProto:
    values = graph.value(name)
    if element == TensorProto.FLOAT16:
        if values.size and (largest := float(np.abs(values).max())) > FP16_LARGEST:
            raise GraphError(f"{name} has a value of {largest:.3g}, and FP16 ends at {FP16_LARGEST:.0f}: use bf16")
        return numpy_helper.from_array(values.astype(np.float16), lowered)
    import ml_dtypes

    return helper.make_tensor(lowered, element, list(values.shape), values.astype(ml_dtypes.bfloat16).tobytes(), raw=True)


def _boundaries(graph: Graph, low: set[str], element: int, types: dict[str, int]) -> None:
    """Casts where a float tensor passes from one precision to the other; one for all readers of a side."""
    made: dict[tuple[str, int], str] = {}

    def to(name: str, kind: int) -> str:
        if (name, kind) not in made:
            suffix = "low" if kind == element else "fp32"
            made[name, kind] = graph.add_node("Cast", [name], f"{name}.{suffix}", f"{name}.to_{suffix}", to=kind)
        return made[name, kind]

    for node in graph.nodes:
        side = element if node.name in low else TensorProto.FLOAT
        for index in _float_inputs(node):
            name = node.input[index]
            maker = graph.made_by.get(name)
            if name in graph.constants or not name or types.get(name) != TensorProto.FLOAT or node.op_type == "Cast":
                continue
            held = element if maker is not None and maker.name in low else TensorProto.FLOAT
            if held != side:
                node.input[index] = to(name, side)
    for value in graph.model.graph.output:
        maker = graph.made_by[value.name]
        if maker.name in low and value.type.tensor_type.elem_type == TensorProto.FLOAT:
            inner = f"{value.name}.low"
            for reader in graph.nodes:
                graph.rewire(reader, value.name, inner)
            maker.output[:] = [inner if name == value.name else name for name in maker.output]
            graph.add_node("Cast", [inner], value.name, f"{value.name}.to_fp32", to=TensorProto.FLOAT)
    graph.index()


def _types(graph: Graph) -> dict[str, int]:
    """Element type of every tensor, from shape inference."""
    inferred = onnx.shape_inference.infer_shapes(graph.model).graph
    return {value.name: value.type.tensor_type.elem_type for value in (*inferred.input, *inferred.value_info, *inferred.output)}


def _native(graph: Graph, element: int) -> None:
    """Inputs and outputs of the precision itself: a cast at the border becomes the border."""
    for value in (graph.input, *graph.model.graph.output):
        if value.type.tensor_type.elem_type != TensorProto.FLOAT:
            continue
        value.type.tensor_type.elem_type = element
        name = value.name
        if name in graph.made_by:
            inner = f"{name}.fp32_out"
            maker = graph.made_by[name]
            maker.output[:] = [inner if output == name else output for output in maker.output]
            for reader in graph.nodes:
                graph.rewire(reader, name, inner)
            graph.add_node("Cast", [inner], name, f"{name}.native", to=element)
        else:
            for reader in graph.used_by.get(name, []):
                graph.rewire(reader, name, f"{name}.fp32_in")
            graph.add_node("Cast", [name], f"{name}.fp32_in", f"{name}.native", to=TensorProto.FLOAT)
    graph.index()
