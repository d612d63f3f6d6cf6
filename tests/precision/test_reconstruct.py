from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

import resnet_deploy as rd
from resnet_deploy.bundle.manifest import GraphFile
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.errors import CalibrationError, GraphError, UsageError
from resnet_deploy.precision import Graph, QuantizeOptions, Target, quantize, reconstruct
from resnet_deploy.precision.auto import distance, run_graph
from resnet_deploy.precision.network import QuantizedNetwork
from resnet_deploy.precision.reconstruct import reconstruct as reconstructed
from tests.helpers.precision_graphs import BLOCKS, IMAGES, SIZE, graph_of, observed
from tests.helpers.shared import exported

pytestmark = pytest.mark.slow

SEEN = np.random.default_rng(1).standard_normal((96, 3, SIZE, SIZE), np.float32)
OTHERS = np.random.default_rng(2).standard_normal((64, 3, SIZE, SIZE), np.float32)
STEPS = (30, 30)


def int8(name: str, **options: Any) -> Graph:
    return quantize(graph_of(name), observed(name).calibration("max"), QuantizeOptions(**options))[0]


@functools.cache
def trained() -> Graph:
    return reconstructed(graph_of("resnet_cifar:8"), int8("resnet_cifar:8"), SEEN, steps=STEPS)


def test_the_error_falls_on_images_that_were_not_seen() -> None:
    expected = run_graph(graph_of("resnet_cifar:8"), OTHERS)
    plain = distance(expected, run_graph(int8("resnet_cifar:8"), OTHERS))
    assert distance(expected, run_graph(trained(), OTHERS)) < 0.9 * plain


def test_it_gives_the_same_bytes_again() -> None:
    again = reconstructed(graph_of("resnet_cifar:8"), int8("resnet_cifar:8"), SEEN, steps=STEPS)
    assert again.model.SerializeToString(deterministic=True) == trained().model.SerializeToString(deterministic=True)


def test_pairs_stay_where_they_are() -> None:
    plain, done = int8("resnet_cifar:8"), trained()

    def placed(graph: Graph) -> list[Any]:
        return [(node.op_type, node.name, list(node.input[:2]), list(node.output)) for node in graph.nodes]

    assert placed(done) == placed(plain)
    for name in (name for name in plain.constants if name.endswith((".scale", ".zero_point", ".q"))):
        assert done.value(name).dtype == plain.value(name).dtype and done.value(name).shape == plain.value(name).shape
    scales = [done.value(name) for name in done.constants if name.endswith(".scale")]
    assert all((scale == scale.astype(np.float16)).all() and (scale > 0).all() for scale in scales)
    weights = [done.value(name) for name in done.constants if name.endswith(".q")]
    assert min(int(weight.min()) for weight in weights) >= -127


def test_what_does_not_help_is_not_taken() -> None:
    plain = int8("resnet_cifar:8")
    assert reconstructed(graph_of("resnet_cifar:8"), plain, SEEN, steps=()) is plain


@pytest.mark.parametrize("head", ["logits", "features"])
@pytest.mark.parametrize("name", BLOCKS.values(), ids=BLOCKS)
def test_torch_computes_what_the_graph_does_whatever_the_factors(name: str, head: str) -> None:
    if head == "features" and name.startswith("ensemble"):
        pytest.skip("an ensemble has none")
    graph = graph_of(name, head)
    quantized, _ = quantize(graph, observed_of(name, head).calibration("max"), QuantizeOptions(head=True))
    network, values = QuantizedNetwork(graph, quantized), QuantizedNetwork(graph, quantized).start.copy()
    values.channels = torch.linspace(-0.5, 0.5, len(values.channels))
    assert len(values.channels) > 1 or name.startswith("preact")
    for start in (network.start, values):
        with torch.no_grad():
            found = network(torch.from_numpy(IMAGES[:4]), start, rounds=False)
        for a, b in zip(run_graph(graph, IMAGES[:4]), found, strict=True):
            np.testing.assert_allclose(b.numpy(), a, rtol=1e-3, atol=1e-3 * np.abs(a).max())


def observed_of(name: str, head: str) -> Any:
    from resnet_deploy.precision.calibrate import observe

    if head == "logits":
        return observed(name)
    return observe(graph_of(name, head), lambda size: iter([IMAGES[: min(size, 4)]]))


def test_rounding_is_that_of_the_graph() -> None:
    graph, quantized = graph_of("resnet_cifar:8"), int8("resnet_cifar:8", head=True)
    network = QuantizedNetwork(graph, quantized)
    with torch.no_grad():
        found = network(torch.from_numpy(IMAGES), network.start)
    errors = [distance(run_graph(graph, IMAGES), other) for other in ([found[0].numpy()], run_graph(quantized, IMAGES))]
    assert errors[0] == pytest.approx(errors[1], rel=0.2)
    written = network.written(network.start)
    for name in (name for name in quantized.constants if name.endswith((".scale", ".q"))):
        np.testing.assert_array_equal(written.value(name), quantized.value(name))


def test_operators_that_cannot_be_trained_through_are_named() -> None:
    graph = graph_of("resnet_cifar:8")
    for node in graph.model.graph.node:
        if node.op_type == "Relu":
            node.op_type = "Softplus"
    graph.index()
    with pytest.raises(GraphError, match=r"has Softplus \(\S+\), which cannot be trained through"):
        QuantizedNetwork(graph, graph)
    with pytest.raises(GraphError, match=r"has (TopK|ArgMax)"):
        topk = graph_of("resnet_cifar:8", "topk:2")
        QuantizedNetwork(topk, topk)


def test_other_targets_and_few_images_are_refused() -> None:
    with pytest.raises(UsageError, match="target tensorrt"):
        reconstructed(graph_of("resnet_cifar:8"), int8("resnet_cifar:8", target=Target.CPU), SEEN)
    with pytest.raises(CalibrationError, match="at least 16 images; found 3"):
        reconstructed(graph_of("resnet_cifar:8"), int8("resnet_cifar:8"), SEEN[:3])


def test_export_reconstructs_for_tensorrt_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconstruct, "reconstruct", functools.partial(reconstructed, steps=(2, 2)))
    made: dict[str, Any] = {"precision": "int8", "input": "uint8", "max_batch": 2}
    bundle = exported("resnet_cifar:8", tmp_path / "b", calibration="random:40", **made)
    plain = bundle.manifest.artifacts
    bundle = rd.export("resnet_cifar:8", tmp_path / "b", calibration="random:40", reconstruct=True, **made)
    found = bundle.manifest.artifacts
    int8 = bundle.manifest.files(GraphFile)["model.int8.onnx"]
    assert int8.settings["reconstruct"] is True and int8.sha256 != plain["model.int8.onnx"].sha256
    assert found["model.int8-cpu.onnx"] == plain["model.int8-cpu.onnx"]
    onnx.checker.check_model(str(tmp_path / "b" / "model.int8.onnx"), full_check=True)
    assert Bundle.open(tmp_path / "b").artifact("model.int8.onnx").is_file()


def test_ranges_alone_are_not_enough(tmp_path: Path) -> None:
    made: dict[str, Any] = {"precision": "int8", "int8_target": "tensorrt", "max_batch": 2}
    exported("resnet_cifar:8", tmp_path / "b", calibration="random:16", **made)
    for calibration in (tmp_path / "b" / "calibration.json", None):
        with pytest.raises(CalibrationError, match="trains on images, and only their ranges are known"):
            rd.export("resnet_cifar:8", tmp_path / "b", calibration=calibration, reconstruct=True, **made)
