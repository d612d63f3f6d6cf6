"""ONNX files: every part of a small network changed at random, hostile ones among them, and damaged bytes."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.helpers import hostile_graphs as hostile

NAME = "graphs"
SIZES = (-1, 0, 1, 2, 3, 8, 65_537, 2**31, 2**40, 2**62)
NUMBERS = (-(2**62), -(10**9), -1, 0, 1, 2, 3, 10**9, 2**40, 2**62)
NAMES = ("x", "y", "w", "c", "", "a", "\x1b[2J", "\n", "é" * 9, "layer1.0.conv1", "../x", "0")
OPERATORS = (
    "Conv", "Relu", "Cast", "DequantizeLinear", "QuantizeLinear", "Gemm", "MatMul", "Reshape", "Concat", "Expand", "Tile",
    "Range", "ConstantOfShape", "Loop", "If", "Scan", "Constant", "BatchNormalization", "MaxPool", "Resize", "Pad", "Slice",
    "Gather", "Split", "SequenceConstruct", "Einsum", "Identity", "Add", "Transpose", "Unsqueeze", "Nothing", "",
)  # fmt: skip
LOCATIONS = ("w.bin", "nope.bin", "../w.bin", "/etc/passwd", "/dev/zero", ".", "", "m.onnx", "a\0b", "link.bin", "w.bin/x")
ENTRIES = (-1, 0, 4, 432, 433, 2**62, "abc", "", "1e3", "٣")

Edit = Callable[[random.Random, onnx.ModelProto], None]


def run(rng: random.Random, folder: Path) -> None:
    """One file: described as `inspect` does, read as quantization does, asked for its inputs as serving does."""
    from resnet_deploy.errors import DeployError
    from resnet_deploy.graph.describe import describe, interface, limits
    from resnet_deploy.graph.graph import Graph

    path = folder / "m.onnx"
    path.write_bytes(made(rng))
    (folder / "w.bin").write_bytes(bytes(432))
    (folder / "link.bin").symlink_to("/etc/hostname")
    report = forked(describe, path, **limits(path.stat().st_size))
    if report is not None:
        check(path, report)
    try:
        inputs, _ = interface(path)
        if report is not None and inputs != report.inputs:
            raise AssertionError("believed other inputs than inspect shows")
    except DeployError:
        pass
    try:
        graph = Graph.read(path)
    except DeployError:
        return
    names = [node.name for node in graph.nodes]
    if len(set(names)) < len(names) or not all(names):
        raise AssertionError("believed that two nodes are one")
    graph.weighted()
    forked(graph.save, folder / "saved.onnx", cpu_s=3)


def check(path: Path, report: Any) -> None:
    """What must be true of a report, whatever the file."""
    model = onnx.load(path, load_external_data=False)
    if report.sha256 != hashlib.sha256(path.read_bytes()).hexdigest():
        raise AssertionError("believed another file")
    if sum(report.operators.values()) != len(model.graph.node):
        raise AssertionError("believed another number of nodes")
    if not 0 <= report.opset <= onnx.defs.onnx_opset_version():
        raise AssertionError(f"believed opset {report.opset}")
    if report.parameters < 0 or report.weight_bytes < 0 or any((layer.macs or 0) < 0 for layer in report.layers):
        raise AssertionError("believed a negative amount")
    sizes = [size for spec in (*report.inputs, *report.outputs) for size in spec.shape]
    if any(isinstance(size, int) and size < 0 for size in sizes):
        raise AssertionError("believed a negative size")
    for name in report.external_data:
        if not (path.parent / name).resolve().is_relative_to(path.parent.resolve()) or not (path.parent / name).is_file():
            raise AssertionError(f"believed weights in {name!r}")
    json.dumps(report.to_dict(), allow_nan=False)


def forked(function: Callable[..., Any], *args: Any, cpu_s: float, memory_bytes: int | None = None) -> Any:
    """What `run_isolated` does, from a copy of this process in place of a new interpreter: thousands of cases.

    Returns None where the call ended in an error of ours, a signal or over a limit. Raises what else it raised.
    """
    from resnet_deploy._isolate import call_captured, limit
    from resnet_deploy.errors import DeployError

    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(read)
            signal.alarm(60)
            limit(cpu_s, memory_bytes)
            with os.fdopen(write, "wb") as file:
                file.write(pickle.dumps(call_captured(function, args)))
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as file:
        data = file.read()
    os.waitpid(child, 0)
    kind, answer = pickle.loads(data) if data else ("died", None)
    if kind == "raised" and not isinstance(answer, DeployError):
        raise answer
    return answer if kind == "returned" else None


def made(rng: random.Random) -> bytes:
    """A file's bytes."""
    kind = rng.random()
    if kind < 0.05:
        return rng.choice(
            [hostile.too_deep(rng.randint(1, 200)), hostile.empty_nodes(rng.randint(0, 5000)), rng.randbytes(300)]
        )
    model = rng.choice(SEEDS)(rng)
    for _ in range(rng.choice([0, 1, 1, 1, 2, 2, 3, 5])):
        try:
            rng.choice(EDITS)(rng, model)
        except (ValueError, TypeError, IndexError):  # what protobuf itself does not take
            continue
    data = model.SerializeToString()
    if kind > 0.8:
        damaged = bytearray(data)
        for _ in range(rng.choice([1, 1, 3, 10])):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        data = bytes(damaged[: rng.randrange(len(damaged))] if rng.random() < 0.3 else damaged)
    return data


def block(rng: random.Random) -> onnx.ModelProto:
    """A residual block, with or without batch norm and quantization."""
    weights = [
        numpy_helper.from_array(np.ones((3, 3, 3, 3), np.float32), "w"), numpy_helper.from_array(np.ones(3, np.float32), "b"),
        numpy_helper.from_array(np.float32(0.1), "s"), numpy_helper.from_array(np.int8(0), "z"),
    ]  # fmt: skip
    node = helper.make_node
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["xq"]), node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        node("Conv", ["xd" if rng.random() < 0.5 else "x", "w", "b"], ["c1"], name="c", pads=[1] * 4),
        node("BatchNormalization", ["c1", "b", "b", "b", "b"], ["n1"], name="n"), node("Relu", ["n1"], ["r1"]),
        node("Add", ["r1", "x"], ["y"], name="add"),
    ]  # fmt: skip
    return hostile.model(nodes, outputs=[hostile.value("y")], weights=weights)


SEEDS: Sequence[Callable[[random.Random], onnx.ModelProto]] = (
    block, block, block,
    lambda rng: hostile.model(),
    lambda rng: hostile.external("w.bin"),
    lambda rng: hostile.sparse(),
    lambda rng: hostile.containers(),
    lambda rng: hostile.classifier(),
    lambda rng: hostile.nested(rng.randint(1, 24)),
    lambda rng: hostile.bomb(rng.randint(2, 40), rng.randint(1, 4), recursive=rng.random() < 0.2),
    lambda rng: hostile.cast_chain(rng.randint(1, 50), rng.randint(1, 50)),
)  # fmt: skip


def _node(rng: random.Random, model: onnx.ModelProto) -> Any:
    nodes = [*model.graph.node, *(node for function in model.functions for node in function.node)]
    return rng.choice(nodes) if nodes else model.graph.node.add()


def _wire(rng: random.Random, model: onnx.ModelProto) -> None:
    node = _node(rng, model)
    names = [name for other in model.graph.node for name in (*other.input, *other.output)] or ["x"]
    ends = rng.choice([node.input, node.output])
    name = rng.choice([rng.choice(names), rng.choice(NAMES)])
    if ends and rng.random() < 0.7:
        ends[rng.randrange(len(ends))] = name
    elif ends and rng.random() < 0.5:
        del ends[rng.randrange(len(ends)) :]
    else:
        ends.append(name)


def _operator(rng: random.Random, model: onnx.ModelProto) -> None:
    node = _node(rng, model)
    node.op_type = rng.choice(OPERATORS)
    node.domain = rng.choice(["", "", "", "ai.onnx", "ai.onnx.ml", "b", "com.example"])


def _name(rng: random.Random, model: onnx.ModelProto) -> None:
    things = [*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output]
    rng.choice(things).name = rng.choice(NAMES)


def _order(rng: random.Random, model: onnx.ModelProto) -> None:
    nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in model.graph.node]
    rng.shuffle(nodes)
    if nodes and rng.random() < 0.5:
        nodes.append(nodes[0])
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _attribute(rng: random.Random, model: onnx.ModelProto) -> None:
    node = _node(rng, model)
    if node.attribute and rng.random() < 0.3:
        del node.attribute[rng.randrange(len(node.attribute))]
        return
    whole = model.graph.SerializeToString()  # a copy of a message into a part of itself crashes protobuf
    item = node.attribute.add()
    item.name = rng.choice(["pads", "strides", "dilations", "kernel_shape", "group", "axis", "to", "value", "body",
                            "then_branch", "equation", "perm", "shape", "num_outputs"])  # fmt: skip
    kind = rng.choice(["INT", "INTS", "INTS", "FLOAT", "STRING", "TENSOR", "GRAPH", "UNDEFINED", "SPARSE_TENSOR", "TYPE_PROTO"])
    item.type = getattr(onnx.AttributeProto, kind)
    if rng.random() < 0.2:
        item.type = onnx.AttributeProto.INTS  # and another field is set
    if kind == "INT":
        item.i = rng.choice(NUMBERS)
    elif kind == "INTS":
        item.ints.extend(rng.choice(NUMBERS) for _ in range(rng.choice([0, 1, 2, 4, 4, 300])))
    elif kind == "FLOAT":
        item.f = rng.choice([0.0, float("nan"), float("inf"), -1.0])
    elif kind == "STRING":
        item.s = rng.choice([b"", b"ij,jk->ik", b"\xff", b"..." * 50])
    elif kind == "TENSOR":
        item.t.CopyFrom(_random_tensor(rng, "w"))
    elif kind == "GRAPH":
        item.g.ParseFromString(whole)


def _random_tensor(rng: random.Random, name: str) -> onnx.TensorProto:
    dims = [rng.choice(SIZES) for _ in range(rng.choice([0, 1, 2, 4, 4, 9]))]
    made = TensorProto(name=name, data_type=rng.choice([0, 1, 1, 1, 2, 7, 8, 10, 16, 17, 22, 23, 99, -1]), dims=dims)
    if rng.random() < 0.5:
        made.raw_data = bytes(rng.choice([0, 1, 4, 108, 432]))
    else:
        made.float_data.extend([1.0] * rng.choice([0, 1, 27, 108]))
        made.string_data.extend([b"a"] * rng.choice([0, 0, 1]))
    return made


def _weight(rng: random.Random, model: onnx.ModelProto) -> None:
    weights = model.graph.initializer
    if weights and rng.random() < 0.3:
        del weights[rng.randrange(len(weights))]
    elif weights:
        item = rng.choice(weights)
        item.CopyFrom(_random_tensor(rng, item.name))
    else:
        weights.append(_random_tensor(rng, rng.choice(NAMES)))


def _dims(rng: random.Random, model: onnx.ModelProto) -> None:
    values = [*model.graph.input, *model.graph.output]
    dims = rng.choice(values).type.tensor_type.shape.dim if values else []
    if not dims or rng.random() < 0.2:
        return
    dim = rng.choice(dims)
    if rng.random() < 0.2:
        dim.dim_param = rng.choice(NAMES)
    else:
        dim.dim_value = rng.choice(SIZES)


def _type(rng: random.Random, model: onnx.ModelProto) -> None:
    value = rng.choice([*model.graph.input, *model.graph.output])
    kind = rng.randrange(5)
    inner = helper.make_tensor_type_proto(rng.choice([1, 8, 10, 16]), (1, 3))
    if kind == 0:
        value.type.tensor_type.elem_type = rng.choice([0, 1, 2, 8, 10, 17, 23, 99])
    elif kind == 1:
        for _ in range(rng.choice([1, 1, 30])):
            inner = helper.make_sequence_type_proto(inner)
        value.type.CopyFrom(inner)
    elif kind == 2:
        value.type.CopyFrom(helper.make_optional_type_proto(inner))
    elif kind == 3:
        value.type.tensor_type.ClearField("shape")
    else:
        value.ClearField("type")


def _opset(rng: random.Random, model: onnx.ModelProto) -> None:
    version = rng.choice([-1, 0, 1, 7, 13, 17, 21, 23, 24, 99, 10**9, 2**62])
    if rng.random() < 0.2:
        del model.opset_import[:]
    elif model.opset_import and rng.random() < 0.7:
        rng.choice(model.opset_import).version = version
    else:
        model.opset_import.add(domain=rng.choice(["", "ai.onnx", "ai.onnx.ml", "b", "\n"]), version=version)


def _external(rng: random.Random, model: onnx.ModelProto) -> None:
    if not model.graph.initializer:
        return
    item = rng.choice(model.graph.initializer)
    item.ClearField("raw_data")
    item.data_location = TensorProto.EXTERNAL
    del item.external_data[:]
    for _ in range(rng.choice([1, 1, 2])):
        item.external_data.add(key="location", value=rng.choice(LOCATIONS))
    for key in ("offset", "length", "checksum"):
        if rng.random() < 0.3:
            item.external_data.add(key=key, value=str(rng.choice(ENTRIES)))


def _sparse(rng: random.Random, model: onnx.ModelProto) -> None:
    item = model.graph.sparse_initializer.add(dims=[rng.choice(SIZES) for _ in range(rng.choice([0, 1, 4]))])
    item.values.CopyFrom(_random_tensor(rng, rng.choice(["w", "v", ""])))
    item.indices.CopyFrom(_random_tensor(rng, rng.choice(["i", ""])))


def _clear(rng: random.Random, model: onnx.ModelProto) -> None:
    model.ClearField(rng.choice(["ir_version", "opset_import", "graph", "producer_name"]))


def _producer(rng: random.Random, model: onnx.ModelProto) -> None:
    model.producer_name, model.ir_version = rng.choice(NAMES), rng.choice([-1, 0, 1, 3, 8, 10, 2**40])


EDITS: Sequence[Edit] = (
    _wire, _wire, _wire, _operator, _operator, _name, _order, _attribute, _attribute, _weight, _weight, _dims, _type, _opset,
    _external, _sparse, _clear, _producer,
)  # fmt: skip
