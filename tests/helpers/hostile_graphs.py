"""ONNX files as nobody should write them: each a few lines around one small convolution."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
WEIGHT = numpy_helper.from_array(np.zeros((4, 3, 3, 3), np.float32), "w")


def value(name: str, shape: Sequence[Any] = (1, 3, 8, 8), kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def conv(**attributes: Any) -> onnx.NodeProto:
    return helper.make_node("Conv", ["x", "w"], ["y"], name="c", **({"pads": [1, 1, 1, 1]} | attributes))


def model(
    nodes: Sequence[onnx.NodeProto] | None = None, *, inputs: Any = None, outputs: Any = None, weights: Any = (WEIGHT,),
    opsets: Sequence[tuple[str, int]] = (("", 20),),
) -> onnx.ModelProto:  # fmt: skip
    graph = helper.make_graph(
        [conv()] if nodes is None else nodes, "g", [value("x")] if inputs is None else inputs,
        [value("y", ("n", 4, 8, 8))] if outputs is None else outputs, list(weights),
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid(*item) for item in opsets])


def changed(edit: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    made = model()
    edit(made)
    return made


def external(where: str, dims: Sequence[int] = (4, 3, 3, 3), **entries: Any) -> onnx.ModelProto:
    """Weights in another file. entries: offset, length."""
    tensor = TensorProto(name="w", data_type=FLOAT, dims=dims, data_location=TensorProto.EXTERNAL)
    for key, text in {"location": where, **entries}.items():
        tensor.external_data.add(key=key, value=str(text))
    return model(weights=[tensor])


def tensor(dims: Sequence[int], kind: int = FLOAT, data: bytes = bytes(432)) -> onnx.ModelProto:
    return model(weights=[TensorProto(name="w", data_type=kind, dims=dims, raw_data=data)])


def bomb(depth: int, width: int = 2, *, recursive: bool = False) -> onnx.ModelProto:
    """Functions that each call the one before so many times."""
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("b", 1)]
    functions = [helper.make_function("b", "f0", ["i"], ["o"], [helper.make_node("Relu", ["i"], ["o"])], opsets[:1])]
    for level in range(1, depth):
        names = ["i", *(f"t{number}" for number in range(width - 1)), "o"]
        called = f"f{level}" if recursive else f"f{level - 1}"
        nodes = [helper.make_node(called, [a], [b], domain="b") for a, b in itertools.pairwise(names)]
        functions.append(helper.make_function("b", f"f{level}", ["i"], ["o"], nodes, opsets))
    made = model(
        [helper.make_node(f"f{depth - 1}", ["x"], ["y"], domain="b")],
        outputs=[value("y")],
        weights=(),
        opsets=(("", 20), ("b", 1)),
    )
    made.functions.extend(functions)
    return made


def nested(depth: int) -> onnx.ModelProto:
    """If in If in If."""

    def branch(node: onnx.NodeProto) -> onnx.GraphProto:
        return helper.make_graph([node], "b", [], [value("r")])

    inner = helper.make_node("Identity", ["x"], ["r"])
    for _ in range(depth):
        other = branch(helper.make_node("Identity", ["x"], ["r"]))
        inner = helper.make_node("If", ["c"], ["r"], then_branch=branch(inner), else_branch=other)
    inner.output[0] = "y"
    return model([inner], inputs=[value("x"), value("c", (), TensorProto.BOOL)], outputs=[value("y")], weights=())


def too_deep(levels: int = 5000) -> bytes:
    """Graphs in attributes of nodes of graphs, deeper than protobuf reads."""
    data = b""
    for number in (6, 5, 1) * levels:
        data = _field(number, data)
    return _field(7, data)


def empty_nodes(count: int) -> bytes:
    """Two bytes a node."""
    return _field(7, _field(1, b"") * count)


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(number: int) -> bytes:
    data = b""
    while number > 0x7F:
        data, number = data + bytes([number & 0x7F | 0x80]), number >> 7
    return data + bytes([number])


def sparse() -> onnx.ModelProto:
    made = model(weights=())
    item = made.graph.sparse_initializer.add(dims=[4, 3, 3, 3])
    item.values.CopyFrom(numpy_helper.from_array(np.ones(2, np.float32), "w"))
    item.indices.CopyFrom(numpy_helper.from_array(np.array([0, 5], np.int64), "w.indices"))
    return made


def classifier() -> onnx.ModelProto:
    """As scikit-learn's converter ends its models: labels, and a sequence of maps from label to probability."""
    pairs = onnx.TypeProto.Map(key_type=TensorProto.INT64, value_type=helper.make_tensor_type_proto(FLOAT, ()))
    answer = helper.make_value_info("y", helper.make_sequence_type_proto(onnx.TypeProto(map_type=pairs)))
    node = helper.make_node("ZipMap", ["x"], ["y"], domain="ai.onnx.ml", classlabels_int64s=[0, 1])
    return model([node], inputs=[value("x", (1, 2))], outputs=[answer], weights=(), opsets=(("", 17), ("ai.onnx.ml", 3)))


def containers() -> onnx.ModelProto:
    """A sequence and an optional as inputs."""
    sequence = helper.make_tensor_sequence_value_info("s", FLOAT, (1, 2))
    optional = helper.make_value_info("o", helper.make_optional_type_proto(helper.make_tensor_type_proto(FLOAT, (1, None))))
    nodes = [
        helper.make_node("SequenceAt", ["s", "i"], ["y"]),
        helper.make_node("OptionalGetElement", ["o"], ["z"]),
    ]
    outputs = [value("y", (1, 2)), value("z", (1, 2))]
    return model(nodes, inputs=[sequence, optional, value("i", (), TensorProto.INT64)], outputs=outputs, weights=())


def cast_chain(length: int, readers: int) -> onnx.ModelProto:
    """A weight behind so many casts, that so many layers read."""
    names = ["w", *(f"t{number}" for number in range(length))]
    casts = [helper.make_node("Cast", [a], [b], to=FLOAT) for a, b in itertools.pairwise(names)]
    layers = [helper.make_node("Conv", ["x", names[-1]], [f"y{number}"]) for number in range(readers)]
    return model([*casts, *layers], outputs=[value("y0", (1, 4, 6, 6))])
