"""ONNX files that others wrote, badly or to do harm: a clear error or a correct report, in bounded time and memory."""

from __future__ import annotations

import hashlib
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import resnet_deploy as rd
from resnet_deploy.errors import GraphError
from resnet_deploy.graph.describe import GraphReport, describe, interface
from resnet_deploy.graph.graph import Graph
from tests.helpers import hostile_graphs as hostile
from tests.helpers.hostile_graphs import changed, conv, external, model, tensor, value

Made = onnx.ModelProto | bytes
NODE = helper.make_node


def written(folder: Path, made: Made) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(made if isinstance(made, bytes) else made.SerializeToString())
    (folder / "w.bin").write_bytes(np.arange(108, dtype=np.float32).tobytes())
    return path


REFUSED: dict[str, tuple[Callable[[], Made], str]] = {
    "empty": (lambda: b"", "it holds no graph"),
    "zeros": (lambda: bytes(10_000), "Wire format was corrupt"),
    "random": (lambda: np.random.default_rng(0).bytes(5000), "Wire format was corrupt|Error parsing"),
    "truncated": (lambda: model().SerializeToString()[:-200], "Wire format was corrupt|Error parsing"),
    "no graph": (lambda: onnx.ModelProto(ir_version=8), "it holds no graph"),
    "deeper than protobuf": (hostile.too_deep, "MaxDepth|Error parsing"),
    "no opset": (lambda: changed(lambda m: m.ClearField("opset_import")), "must specify opset_import"),
    "opset 0": (lambda: model(opsets=[("", 0)]), r"its opset is 0; the onnx package that is installed reads 1 to"),
    "opset -1": (lambda: model(opsets=[("", -1)]), r"its opset is -1;"),
    "opset 10^9": (lambda: model(opsets=[("ai.onnx", 10**9)]), r"its opset is 1,000,000,000;"),
    "opset twice": (lambda: model(opsets=[("", 20), ("ai.onnx", 7)]), "imports the opset of 'ai.onnx' twice"),
    "cycle": (lambda: model([NODE("Cast", ["a"], ["b"], to=1), NODE("Cast", ["b"], ["a"], to=1), conv()]), "sorted"),
    "unsorted": (lambda: model([NODE("Relu", ["z"], ["y"]), NODE("Conv", ["x", "w"], ["z"])]), "sorted"),
    "self-referring": (lambda: model([NODE("Cast", ["w2"], ["w2"], to=1), NODE("Conv", ["x", "w2"], ["y"])]), "sorted"),
    "function of itself": (lambda: hostile.bomb(3, recursive=True), "Cycle detected|calls itself"),
    "unknown operator": (lambda: model([NODE("Frobnicate", ["x"], ["y"])]), "No Op registered for Frobnicate"),
    "attribute's type": (lambda: model([conv(strides="x")]), "Mismatched attribute type"),
    "negative weights": (lambda: tensor([-4, -3, 3, 3]), "Negative dimension"),
    "overflowing weights": (lambda: tensor([2**62, 2**62, 3, 3]), "overflow"),
    "too few weights": (lambda: tensor([4000, 3, 3, 3]), r"432 bytes\) is too small"),
    "no element type": (lambda: tensor([4, 3, 3, 3], 0), "UNDEFINED"),
    "unknown element type": (lambda: tensor([4, 3, 3, 3], 99), "99 is no element type that ONNX has"),
    "unknown input type": (lambda: model(inputs=[value("x", kind=99)]), "99 is no element type that ONNX has"),
    "a name twice": (lambda: model(weights=[hostile.WEIGHT, hostile.WEIGHT]), "not unique"),
    "an output twice": (lambda: model([conv(), NODE("Relu", ["x"], ["y"])]), "single static assignment"),
    "no shape": (lambda: model(outputs=[value("y", None)]), "'shape' of 'type' is required"),
    "no type": (lambda: changed(lambda m: m.graph.input[0].ClearField("type")), "required but missing"),
    "a name that is no text": (lambda: model().SerializeToString().replace(b'c"\x04Conv', b'\xff"\x04Conv'), "is not UTF-8"),
    "a size that is no text": (
        lambda: model(inputs=[value("x", ("size", 3, 8, 8))]).SerializeToString().replace(b"size", b"\xffize"),
        "is not UTF-8",
    ),
    "weights missing": (lambda: external("nope.bin"), "the weights of 'w' are in 'nope.bin': No such file"),
    "weights above": (lambda: external("../w.bin"), "not a file beside it"),
    "weights elsewhere": (lambda: external("/etc/passwd"), "not a file beside it"),
    "weights of a device": (lambda: external("/dev/zero"), "not a file beside it"),
    "weights of a folder": (lambda: external("."), "it is a folder, not a file"),
    "weights of no name": (lambda: external(""), "not a file beside it"),
    "weights too short": (lambda: external("w.bin", [400, 3, 3, 3]), "it has 432 bytes, and 43,200 are needed"),
    "weights behind": (lambda: external("w.bin", offset=4), "it has 432 bytes, and 436 are needed"),
    "negative offset": (lambda: external("w.bin", offset=-5), "'-5' is no number of bytes"),
    "offset as text": (lambda: external("w.bin", offset="abc"), "'abc' is no number of bytes"),
    "another length": (lambda: external("w.bin", length=2**62), "bytes are named for a tensor of 432"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_onnx_is_refused(tmp_path: Path, case: str) -> None:
    make, message = REFUSED[case]
    path = written(tmp_path, make())
    for read in (describe, Graph.read):
        with pytest.raises(GraphError, match=message) as caught:
            read(path)
        assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def of_one_layer(report: GraphReport, **expected: Any) -> None:
    (layer,) = report.layers
    for name, wanted in ({"weight_shape": (4, 3, 3, 3), "precision": "fp32"} | expected).items():
        assert getattr(layer, name) == wanted


LIE = "the file gives 'y' the shape [1, 3, 8, 8], but its nodes make [1, 4, 8, 8] of the input"

READ: dict[str, tuple[Callable[[], Made], Callable[[GraphReport], object]]] = {
    "plain": (model, lambda r: of_one_layer(r, name="c", macs=8 * 8 * 4 * 27)),
    "no names": (lambda: model([NODE("Conv", ["x", "w"], ["y"], pads=[1] * 4)]), lambda r: of_one_layer(r, name="")),
    "weights in a file": (lambda: external("w.bin"), lambda r: (of_one_layer(r), _is(r.external_data, ("w.bin",)))),
    "sparse weights": (hostile.sparse, lambda r: (of_one_layer(r), _is(r.parameters, 108))),
    "weights of a node": (
        lambda: model([NODE("Constant", [], ["w"], value=hostile.WEIGHT), conv()], weights=()),
        lambda r: (of_one_layer(r), _is((r.parameters, r.weight_bytes), (108, 432))),
    ),
    "4 bits a weight": (
        lambda: tensor([4, 3, 3, 3], TensorProto.INT4, bytes(54)), lambda r: _is((r.parameters, r.weight_bytes), (108, 54)),
    ),
    "containers": (
        hostile.containers,
        lambda r: _is([str(spec) for spec in r.inputs], ["s sequence of float32 [1, 2]", "o optional float32 [1, ?]",
                                                         "i int64 []"]),
    ),
    "scikit-learn": (hostile.classifier, lambda r: _is(r.outputs[0].dtype, "sequence of map of int64 to float32")),
    "strings": (
        lambda: model([NODE("Identity", ["x"], ["y"])], inputs=[value("x", kind=TensorProto.STRING)],
                      outputs=[value("y", kind=TensorProto.STRING)], weights=()),
        lambda r: _is(r.inputs[0].dtype, "string"),
    ),
    "negative sizes": (lambda: model(inputs=[value("x", (-1, 3, 8, 8))]), lambda r: _is(r.inputs[0].shape, ("?", 3, 8, 8))),
    "giant sizes": (lambda: model(inputs=[value("x", (2**40,) * 4)]), lambda r: _is(r.inputs[0].shape, (2**40,) * 4)),
    "unknown sizes": (lambda: model(inputs=[value("x", ("n", 3, "h", "w"))]), lambda r: of_one_layer(r, macs=None)),
    "an output that lies": (
        lambda: model(outputs=[value("y", (1, 3, 8, 8))]),
        lambda r: (of_one_layer(r, macs=8 * 8 * 4 * 27), _is(r.warnings, (LIE,))),
    ),
    "no nodes": (lambda: model([], outputs=[value("x")], weights=()), lambda r: _is((r.layers, r.operators), ((), {}))),
    "nested": (lambda: hostile.nested(24), lambda r: _is(r.operators, {"If": 1})),
    "function bomb": (lambda: hostile.bomb(60), lambda r: _is(r.operators, {"f59": 1})),
    "wide function bomb": (lambda: hostile.bomb(4, 1000), lambda r: _is(r.operators, {"f3": 1})),
    "control characters": (
        lambda: changed(lambda m: setattr(m.graph.node[0], "name", "\x1b[2Jc\n")), lambda r: of_one_layer(r, name="\x1b[2Jc\n"),
    ),
    "casts": (lambda: hostile.cast_chain(3000, 3000), lambda r: _is({x.weight_shape for x in r.layers}, {(4, 3, 3, 3)})),
}  # fmt: skip


def _is(found: object, expected: object) -> None:
    assert found == expected


@pytest.mark.parametrize("case", READ)
def test_what_is_odd_but_onnx_is_described(tmp_path: Path, case: str) -> None:
    make, check = READ[case]
    path = written(tmp_path, make())
    report = describe(path)
    check(report)
    assert report.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_loop_in_a_graph_that_no_checker_has_seen_ends() -> None:
    from resnet_deploy.graph.describe import weighted

    loop = [NODE("DequantizeLinear", ["", "s"], [""]), NODE("Cast", ["a"], ["a"], to=1), NODE("Conv", ["x", ""], ["y"])]
    graph = model([*loop, NODE("Conv", ["x", "a"], ["z"])], weights=()).graph
    assert list(weighted(graph)) == []


def test_devices_and_pipes_and_folders(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path, message in (
        (tmp_path, "is a folder; give one of its files"), (tmp_path / "pipe", "it is a pipe, not a file"),
        (Path("/dev/zero"), "it is a device, not a file"), (tmp_path / "absent", "does not exist"),
        (tmp_path / "loop", "cannot be read"), (tmp_path / "a\0b", "cannot be read"),
    ):  # fmt: skip
        with pytest.raises(GraphError, match=message):
            rd.inspect(path)


def test_more_than_protobuf_holds_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "m.onnx").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(GraphError, match="more than the 2,147,483,647 that are read"):
        rd.inspect(tmp_path / "m.onnx")


def test_a_terabyte_beside_a_graph_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.bin").open("wb") as file:
        file.truncate(1 << 40)
    report = describe(written(tmp_path, external("huge.bin", [1 << 19, 1 << 19])))
    assert report.weight_bytes == 1 << 40
    with pytest.raises(GraphError, match="more than 2 GB"):
        Graph.read(tmp_path / "m.onnx")
    graph = Graph.read(written(tmp_path, external("huge.bin")))  # no length is named: the tensor's own
    assert not graph.value("w").any()


def test_weights_behind_a_link_that_leads_out_are_refused(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    written(tmp_path, model())
    (tmp_path / "model/w.bin").symlink_to(tmp_path / "w.bin")
    path = tmp_path / "model/m.onnx"
    path.write_bytes(external("w.bin").SerializeToString())
    with pytest.raises(GraphError, match="a link leads out of its folder"):
        describe(path)


def test_weights_in_a_file_are_those_that_are_worked_on(tmp_path: Path) -> None:
    graph = Graph.read(written(tmp_path, external("w.bin", [2, 3, 3, 3], offset=108, length=216)))
    np.testing.assert_array_equal(graph.value("w").reshape(-1), np.arange(27, 81, dtype=np.float32))
    del graph.model.graph.output[0].type.tensor_type.shape.dim[:]
    graph.model.graph.output[0].type.tensor_type.shape.CopyFrom(value("y", ("n", 2, 8, 8)).type.tensor_type.shape)
    graph.save(tmp_path / "whole.onnx")
    assert describe(tmp_path / "whole.onnx").external_data == ()


def test_a_function_bomb_is_not_worked_on(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="those of its functions counted where they are called; at most 50,000"):
        Graph.read(written(tmp_path, hostile.bomb(60)))


def test_millions_of_empty_nodes_end_in_bounded_time_and_memory(tmp_path: Path) -> None:
    path = written(tmp_path, hostile.empty_nodes(3_000_000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(GraphError, match=r"it has 3,000,000 nodes; at most 1,000,000|processor time|more memory"):
        rd.inspect(path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "KB; what was read, was read elsewhere"
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 2_000_000


def test_a_batch_norm_of_other_channels_is_no_traceback(tmp_path: Path) -> None:
    weights = [hostile.WEIGHT, *(numpy_helper.from_array(np.ones(3, np.float32), name) for name in "abcd")]
    nodes = [NODE("Conv", ["x", "w"], ["z"], name="c"), NODE("BatchNormalization", ["z", *"abcd"], ["y"], name="n")]
    with pytest.raises(GraphError, match=r"the batch norm 'n' is not of \[4\] channels, as 'c' is"):
        Graph.read(written(tmp_path, model(nodes, weights=weights)))


def test_a_batch_norm_of_a_negative_variance_is_refused(tmp_path: Path) -> None:
    ones = [numpy_helper.from_array(np.ones(4, np.float32), name) for name in "abc"]
    variance = numpy_helper.from_array(np.array([1, 1, -2, 1], np.float32), "d")
    nodes = [NODE("Conv", ["x", "w"], ["z"], name="c"), NODE("BatchNormalization", ["z", *"abcd"], ["y"], name="n")]
    with pytest.raises(GraphError, match="the batch norm 'n' has a variance of -2"):
        Graph.read(written(tmp_path, model(nodes, weights=[hostile.WEIGHT, *ones, variance])))


def test_what_shape_inference_alone_refuses_is_not_saved(tmp_path: Path) -> None:
    """Labels of no kind: the checker lets them pass, and inference raises what is no error of ONNX's own."""
    made = hostile.classifier()
    del made.graph.node[0].attribute[:]
    graph = Graph.read(written(tmp_path, made))
    with pytest.raises(GraphError, match="is not valid: Invalid tensor data type 0"):
        graph.save(tmp_path / "saved.onnx")
    assert not (tmp_path / "saved.onnx").exists()


def test_nodes_without_names_or_of_the_same_name_are_told_apart(tmp_path: Path) -> None:
    nodes = [NODE("Relu", ["x"], ["a"], name="relu_1"), NODE("Relu", ["a"], ["b"]), NODE("Relu", ["b"], ["c"], name="relu_1"),
             NODE("Relu", ["c"], ["y"], name="relu_1_2")]  # fmt: skip
    graph = Graph.read(written(tmp_path, model(nodes, weights=())))
    names = [node.name for node in graph.nodes]
    assert len(set(names)) == 4
    graph.index()
    assert [node.name for node in graph.nodes] == names


def test_what_is_no_tensor_cannot_be_served(tmp_path: Path) -> None:
    with pytest.raises(GraphError, match="'s' is no tensor"):
        interface(written(tmp_path, hostile.containers()))
    assert [spec.name for spec in interface(written(tmp_path, hostile.sparse()))[0]] == ["x"]
