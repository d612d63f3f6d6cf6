"""What is in an ONNX file: inputs, outputs, layers and their precision, without running it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resnet_deploy._files import regular, sha256_file
from resnet_deploy._isolate import IsolationError, run_isolated
from resnet_deploy.errors import GraphError
from resnet_deploy.graph.onnx_files import (
    MAX_BYTES,
    MAX_EXPANDED,
    check_model,
    element_name,
    expanded_nodes,
    invalid,
    is_external,
    location,
    opset_of,
    parse_model,
    shape_of,
    size_bytes,
    tensors,
    typed,
)
from resnet_deploy.precisions import of_element
from resnet_deploy.specs import TensorSpec

# Layers that carry a network's arithmetic, with the input that is the weight.
_WEIGHTED = {"Conv": 1, "Gemm": 1, "MatMul": 1}
_CLOCK_S = 120.0  # for a file that is described in seconds of processor time, on a machine that does other things


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One operator with weights.

    Attributes:
        name: of its node.
        kind: the ONNX operator.
        precision: of its weights as it computes with them.
        weight_shape: as the graph has it.
        macs: multiply-accumulates of one image; None where the graph does not give its output's shape.
    """

    name: str
    kind: str
    precision: str
    weight_shape: tuple[int, ...]
    macs: int | None


@dataclass(frozen=True, kw_only=True)
class GraphReport:
    """What is in an ONNX file.

    Attributes:
        file, sha256, size_bytes: the file, its digest and its size.
        opset: of the default domain.
        producer: the program that wrote it.
        inputs, outputs: names, dtypes and shapes.
        parameters: elements of all constants.
        weight_bytes: of all constants.
        layers: operators with weights, in order.
        operators: how many of each type, those inside functions and subgraphs left out.
        external_data: other files that hold weights, relative to its folder.
        warnings: what is wrong with the file as part of a bundle: that it was changed after it was made.
    """

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
    external_data: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def precisions(self) -> dict[str, int]:
        """How many layers with weights compute in each precision."""
        return dict(Counter(layer.precision for layer in self.layers))

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "precisions": self.precisions}


def read_graph(path: Path) -> GraphReport:
    """Describe an ONNX file, in a process of its own that has seconds and megabytes by the file's size.

    Raises:
        GraphError: for what is not a valid ONNX file, or takes longer or more memory than such a file should.
    """
    try:
        size = regular(path, MAX_BYTES)
    except (OSError, ValueError) as exc:
        raise GraphError(f"{path}: {exc.strerror if isinstance(exc, OSError) and exc.strerror else exc}") from exc
    try:
        return run_isolated(describe, path, preload=("onnx",), timeout_s=_CLOCK_S, **limits(size))
    except IsolationError as exc:
        raise GraphError(f"{path} cannot be read as an ONNX file: {exc}") from exc


def limits(size: int) -> dict[str, Any]:
    """The processor time and memory in which a file of so many bytes is described, as `run_isolated` takes them."""
    return {"cpu_s": 3 + size / 20e6, "memory_bytes": 512_000_000 + 8 * size}


def describe(path: Path) -> GraphReport:
    """As `read_graph`, in this process: ONNX's checker and shape inference are native code. Raises GraphError."""
    import onnx

    model = parse_model(path)
    check_model(path)
    try:
        constants, shapes = constants_of(model.graph), shapes_of(model)
        inputs = [value for value in model.graph.input if value.name not in constants]
        return GraphReport(
            file=str(path), sha256=sha256_file(path), size_bytes=path.stat().st_size, opset=opset_of(model),
            producer=f"{model.producer_name} {model.producer_version}".strip(),
            inputs=tuple(map(_spec, inputs)), outputs=tuple(map(_spec, model.graph.output)),
            operators=dict(Counter(node.op_type for node in model.graph.node).most_common()),
            parameters=sum(math.prod(tensor.dims) for tensor in constants.values()),
            weight_bytes=sum(map(size_bytes, constants.values())),
            layers=layers_of(model, shapes), warnings=_contradictions(model, shapes),
            external_data=tuple(sorted({location(tensor) for tensor in tensors(model) if is_external(tensor)})),
        )  # fmt: skip
    except (GraphError, onnx.shape_inference.InferenceError, ValueError, KeyError) as exc:
        raise invalid(path, exc) from exc


def interface(path: Path) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs of an ONNX file. Raises GraphError for anything else, and where one is no tensor."""
    graph = parse_model(path).graph
    constants = constants_of(graph)
    try:
        inputs = tuple(_spec(value) for value in graph.input if value.name not in constants)
        outputs = tuple(map(_spec, graph.output))
    except GraphError as exc:
        raise invalid(path, exc) from exc
    for value in (*graph.input, *graph.output):
        if not value.type.HasField("tensor_type"):
            raise GraphError(f"{path}: {value.name!r} is no tensor; images and answers are tensors")
    return inputs, outputs


def constants_of(graph: Any) -> dict[str, Any]:
    """Constant tensors by name: initializers, sparse ones (by their dense shape, their values left out), Constant nodes."""
    import onnx

    constants = {tensor.name: tensor for tensor in graph.initializer}
    for sparse in graph.sparse_initializer:
        values = sparse.values
        constants[values.name] = onnx.TensorProto(name=values.name, data_type=values.data_type, dims=sparse.dims)
    for node in graph.node:
        value = next((item for item in node.attribute if item.name == "value" and item.HasField("t")), None)
        if node.op_type == "Constant" and value is not None and len(node.output) == 1:
            constants[node.output[0]] = value.t
    return constants


def _spec(value: Any) -> TensorSpec:
    dtype, shape = typed(value.type)
    return TensorSpec(name=value.name, dtype=dtype, shape=shape)


def layers_of(proto: Any, shapes: dict[str, tuple[int | str, ...]] | None = None) -> tuple[Layer, ...]:
    """A model's operators with weights.

    Args:
        proto: an onnx.ModelProto.
        shapes: what `shapes_of` gives for it, where that is known already.

    Returns:
        The layers, in order.
    """
    shapes = shapes_of(proto) if shapes is None else shapes
    return tuple(
        Layer(
            name=node.name, kind=node.op_type, weight_shape=tuple(weight.dims),
            precision=precision + (" (quantized)" if quantized else ""), macs=_macs(node, weight, shapes.get(node.output[0])),
        )
        for node, weight, precision, quantized in weighted(proto.graph)
    )  # fmt: skip


def shapes_of(proto: Any) -> dict[str, tuple[int | str, ...]]:
    """Shapes of tensors by name: those that follow from the inputs, and those that the file gives where nothing follows.

    Of the main graph; those that the file gives alone where there are too many nodes to infer from.
    """
    import onnx

    def known(graph: Any) -> dict[str, tuple[int | str, ...]]:
        values = (*graph.value_info, *graph.output)
        tensors_alone = [value for value in values if value.type.HasField("tensor_type")]
        shapes = {value.name: shape_of(value.type.tensor_type) for value in tensors_alone}
        return {name: shape for name, shape in shapes.items() if shape != ("...",)}

    shapes = known(proto.graph)
    if expanded_nodes(proto) <= MAX_EXPANDED:
        shapes |= known(onnx.shape_inference.infer_shapes(_outline(proto)).graph)
    return shapes


def _contradictions(model: Any, shapes: dict[str, tuple[int | str, ...]]) -> tuple[str, ...]:
    """Shapes of outputs that a file gives otherwise than they follow from its inputs."""
    contradictions = []
    for value in model.graph.output:
        declared, real = typed(value.type)[1], shapes.get(value.name)
        sizes = zip(declared, real or (), strict=False)
        if real is not None and (
            len(declared) != len(real) or any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in sizes)
        ):
            as_text = [", ".join(map(str, shape)) for shape in (declared, real)]
            contradictions.append(
                f"the file gives {value.name!r} the shape [{as_text[0]}], but its nodes make [{as_text[1]}] of the input"
            )
    return tuple(contradictions)


def _outline(proto: Any) -> Any:
    """A copy for shape inference: large initializers empty, which it would copy twice, and without the shapes that the file
    gives for what its nodes make, which it would believe."""
    import onnx

    copied = onnx.ModelProto(ir_version=proto.ir_version, opset_import=proto.opset_import, functions=proto.functions)
    graph = proto.graph
    copied.graph.node.extend(graph.node)
    copied.graph.input.extend(graph.input)
    copied.graph.sparse_initializer.extend(graph.sparse_initializer)
    copied.graph.output.extend(onnx.ValueInfoProto(name=value.name) for value in graph.output)
    for tensor in graph.initializer:
        if math.prod(tensor.dims) <= 1024:
            copied.graph.initializer.append(tensor)
        else:
            copied.graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    return copied


def weighted(graph: Any) -> Iterator[tuple[Any, Any, str, bool]]:
    """Nodes with weights, in order: the node, its weight, the weight's precision, and whether it is quantized."""
    constants = constants_of(graph)
    made_by = {output: node for node in graph.node for output in node.output if output}
    known: dict[str, tuple[Any, bool]] = {}
    for node in graph.node:
        if node.op_type not in _WEIGHTED or len(node.input) <= _WEIGHTED[node.op_type]:
            continue
        weight, quantized = _weight(node.input[_WEIGHTED[node.op_type]], constants, made_by, known)
        if weight is not None:
            name = element_name(weight.data_type)
            yield node, weight, of_element(name), quantized


def _weight(
    name: str, constants: dict[str, Any], made_by: dict[str, Any], known: dict[str, tuple[Any, bool]]
) -> tuple[Any, bool]:
    """The constant behind a weight input, looking through casts and DequantizeLinear; and whether it is quantized.

    known: answers so far, so that a chain that many layers read is followed once.
    """
    passed: dict[str, bool] = {}  # tensors on the way, and whether a DequantizeLinear makes them
    while name not in constants and name not in known and name not in passed:  # a node may read its own output
        node = made_by.get(name)
        if node is None or node.op_type not in {"Cast", "DequantizeLinear", "QuantizeLinear"} or not node.input:
            break
        passed[name] = node.op_type == "DequantizeLinear"
        name = node.input[0]
    weight, quantized = known.get(name, (constants.get(name), False))
    for tensor, dequantized in reversed(passed.items()):
        quantized = quantized or dequantized
        known[tensor] = (weight, quantized)
    return weight, quantized


def _macs(node: Any, weight: Any, shape: tuple[int | str, ...] | None) -> int | None:
    """Each output element of a convolution costs one filter; of a matrix product, the length of its input."""
    if node.op_type != "Conv":
        return int(math.prod(weight.dims))
    if not shape or any(isinstance(size, str) for size in (shape[1:] or shape)):
        return None
    return math.prod(int(size) for size in shape[1:]) * int(math.prod(weight.dims[1:]))
