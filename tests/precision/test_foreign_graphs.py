"""Graphs that other exporters wrote: torchvision's ResNet through torch's older exporter, batch norms and all."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from resnet_deploy.precision import Graph, QuantizeOptions, Target, cast, observe, quantize
from resnet_deploy.precision.auto import relative_error, run_graph
from resnet_deploy.precision.blocks import blocks_of
from resnet_deploy.specs import Precision
from tests.helpers.networks import randomize
from tests.helpers.peers import torchvision

pytestmark = pytest.mark.slow

IMAGES = np.random.default_rng(0).standard_normal((8, 3, 64, 64), np.float32)


@pytest.fixture(scope="module", params=["batch norms folded", "batch norms kept"])
def foreign(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    network = torchvision().models.resnet18(num_classes=7).eval()
    randomize(network)
    path, kept = tmp_path_factory.mktemp("foreign") / "resnet18.onnx", request.param == "batch norms kept"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network, (torch.from_numpy(IMAGES[:2]),), str(path), dynamo=False, opset_version=20, input_names=["data"],
            dynamic_axes={"data": {0: "batch"}}, do_constant_folding=not kept,
            training=torch.onnx.TrainingMode.PRESERVE if kept else torch.onnx.TrainingMode.EVAL,
        )  # fmt: skip
    assert (sum(node.op_type == "BatchNormalization" for node in onnx.load(path).graph.node) == 20) is kept
    with torch.inference_mode():
        return path, network(torch.from_numpy(IMAGES)).numpy()


def test_reading_changes_no_answer(foreign: tuple[Path, np.ndarray]) -> None:
    path, expected = foreign
    graph = Graph.read(path)
    assert relative_error([expected], run_graph(graph, IMAGES)) < 1e-9
    assert not [node for node in graph.nodes if node.op_type in {"BatchNormalization", "Constant"}]


@pytest.mark.parametrize("target", Target)
def test_it_is_quantized_as_ours_is(foreign: tuple[Path, np.ndarray], target: Target, tmp_path: Path) -> None:
    path, expected = foreign
    graph = Graph.read(path)
    calibration = observe(graph, lambda _: iter([IMAGES])).calibration("max")
    done, placement = quantize(graph, calibration, QuantizeOptions(target=target))
    assert len(placement.convolutions) == 20
    blocks = blocks_of(graph, placement.convolutions)
    assert len(blocks) == 9 and len(blocks["layer2.0"]) == 3
    if target is Target.TENSORRT:  # a pair for each distinct input of a convolution, and for 3 projections
        assert len(placement.activations) == 1 + 1 + 16 - 1 + 3
        done = cast(done, Precision.FP16)
    done.save(tmp_path / "m.onnx")
    assert relative_error([expected], run_graph(Graph(onnx.load(tmp_path / "m.onnx")), IMAGES)) < 0.01
