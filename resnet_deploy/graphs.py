"""What is in an ONNX file: inputs, outputs, layers and their precision, without running it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resnet_deploy._files import sha256_file
from resnet_deploy.errors import GraphError
from resnet_deploy.specs import TensorSpec

_PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float8_e4m3fn": "fp8"}
# Layers that carry a network's arithmetic, with the input that is the weight.
_WEIGHTED = {"Conv": 1, "Gemm": 1, "MatMul": 1}


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One operator with weights. macs: of one image, None where the graph does not give its output's shape."""

    name: str
    kind: str
    precision: str
    weight_shape: tuple[int, ...]
    macs: int | None


@dataclass(frozen=True, kw_only=True)
class GraphReport:
    """An ONNX file. weight_bytes: of all constants. operators: how many of each type."""

    file: str
    sha256: str
    size_bytes: int
    opset: int
    producer: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    operators: dict[str, int]
    parameters: int
    weight_bytes: int
    layers: tuple[Layer, ...]

    @property
    def precisions(self) -> dict[str, int]:
        """How many layers with weights compute in each precision."""
        return dict(Counter(layer.precision for layer in self.layers))

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "precisions": self.precisions}


def read_graph(path: Path) -> GraphReport:
    """Describe an ONNX file. Raises GraphError for anything else."""
    import onnx

    try:
        proto = onnx.load(path)
        onnx.checker.check_model(proto)
        layers = layers_of(proto)
    except Exception as exc:  # protobuf, the checker and shape inference have no common base
        raise GraphError(f"{path} is not a valid ONNX file: {str(exc).splitlines()[0][:200]}") from exc
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in constants]
    return GraphReport(
        file=str(path), sha256=sha256_file(path), size_bytes=path.stat().st_size,
        opset=next((item.version for item in proto.opset_import if item.domain in {"", "ai.onnx"}), 0),
        producer=f"{proto.producer_name} {proto.producer_version}".strip(),
        inputs=tuple(map(_spec, inputs)), outputs=tuple(map(_spec, proto.graph.output)),
        operators=dict(Counter(node.op_type for node in proto.graph.node).most_common()),
        parameters=sum(math.prod(tensor.dims) for tensor in constants.values()),
        weight_bytes=sum(math.prod(tensor.dims) * _dtype(tensor.data_type).itemsize for tensor in constants.values()),
        layers=layers,
    )  # fmt: skip


def interface(path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of an ONNX file. Raises GraphError for anything else."""
    import onnx

    try:
        graph = onnx.load(path, load_external_data=False).graph
    except Exception as exc:  # protobuf has its own exceptions, by implementation
        raise GraphError(f"{path} is not a valid ONNX file: {str(exc).splitlines()[0][:200]}") from exc
    constants = {tensor.name for tensor in graph.initializer}
    return tuple(_spec(value) for value in graph.input if value.name not in constants), tuple(map(_spec, graph.output))


def _dtype(element: int) -> Any:
    import onnx

    return onnx.helper.tensor_dtype_to_np_dtype(element)


def _spec(value: Any) -> TensorSpec:
    tensor = value.type.tensor_type
    shape = tuple(dim.dim_param or (dim.dim_value if dim.HasField("dim_value") else "?") for dim in tensor.shape.dim)
    return TensorSpec(name=value.name, dtype=str(_dtype(tensor.elem_type)), shape=shape)


def layers_of(proto: Any) -> tuple[Layer, ...]:
    """A model's operators with weights, in order."""
    import onnx

    shaped = onnx.shape_inference.infer_shapes(proto).graph
    shapes = {value.name: _spec(value).shape for value in (*shaped.value_info, *shaped.output)}
    return tuple(
        Layer(
            name=node.name, kind=node.op_type, weight_shape=tuple(weight.dims),
            precision=precision + (" (quantized)" if quantized else ""), macs=_macs(node, weight, shapes.get(node.output[0])),
        )
        for node, weight, precision, quantized in weighted(proto.graph)
    )  # fmt: skip


def weighted(graph: Any) -> Iterator[tuple[Any, Any, str, bool]]:
    """Nodes with weights, in order: the node, its weight, the weight's precision, and whether it is quantized."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    made_by = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type not in _WEIGHTED or len(node.input) <= _WEIGHTED[node.op_type]:
            continue
        weight, quantized = _weight(node.input[_WEIGHTED[node.op_type]], constants, made_by)
        if weight is not None:
            name = str(_dtype(weight.data_type))
            yield node, weight, _PRECISIONS.get(name, name), quantized


def _weight(name: str, constants: dict[str, Any], made_by: dict[str, Any]) -> tuple[Any, bool]:
    """The constant behind a weight input, looking through casts and DequantizeLinear; and whether it is quantized."""
    quantized = False
    while name not in constants and name in made_by and made_by[name].op_type in {"Cast", "DequantizeLinear", "QuantizeLinear"}:
        quantized = quantized or made_by[name].op_type == "DequantizeLinear"
        name = made_by[name].input[0]
    return constants.get(name), quantized


def _macs(node: Any, weight: Any, shape: tuple[int | str, ...] | None) -> int | None:
    """Each output element of a convolution costs one filter; of a matrix product, the length of its input."""
    if node.op_type != "Conv":
        return int(math.prod(weight.dims))
    if shape is None or any(isinstance(size, str) for size in shape[1:]):
        return None
    return math.prod(int(size) for size in shape[1:]) * int(math.prod(weight.dims[1:]))
