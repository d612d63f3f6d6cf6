"""Layouts of a plan's input, by TensorRT-RTX's real builder: what it accepts, and whether the first reformat goes."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import TensorProto

import resnet_deploy as rd
from resnet_deploy.engine.build import build_plan
from resnet_deploy.engine.flavours import TENSORRT_RTX
from resnet_deploy.engine.formats import layout_of
from resnet_deploy.engine.options import BuildOptions
from resnet_deploy.engine.report import EngineLayer
from resnet_deploy.errors import UsageError
from resnet_deploy.specs import silent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ResNet-18's first convolution is the one that GPUs have kernels of few channels for."""
    path = tmp_path_factory.mktemp("formats") / "bundle"
    rd.export("resnet18", path, precision="fp16", native_io=True, max_batch=8)
    return path


def layers(graph: Path, input_format: str) -> list[EngineLayer]:
    options = BuildOptions(batch="8", input_format=input_format)
    return build_plan(graph, options, TENSORRT_RTX, ("sm86",), silent).layers


@pytest.mark.parametrize(("graph", "input_format"), [("model.fp16.onnx", "chw4"), ("model.fp32.onnx", "hwc")])
def test_no_reformat_stands_before_the_first_convolution(folder: Path, graph: str, input_format: str) -> None:
    before, after = layers(folder / graph, "linear"), layers(folder / graph, input_format)
    assert before[0].reformats and not before[0].computes and before[1].computes
    assert after[0].computes and not after[0].reformats, after[0].name
    assert len(after) == len(before) - 1


@pytest.mark.parametrize("input_format", ["hwc8", "chw32"])
def test_layouts_that_are_accepted_and_save_nothing_there(folder: Path, input_format: str) -> None:
    """On these GPUs, whose first convolution reads four channels: others, and TensorRT itself, may read more."""
    after = layers(folder / "model.fp16.onnx", input_format)
    assert after[0].reformats and len(after) == len(layers(folder / "model.fp16.onnx", "linear"))


@pytest.mark.parametrize("input_format", ["chw4", "hwc8"])
def test_a_type_without_the_layout_is_refused_with_advice(folder: Path, input_format: str) -> None:
    with pytest.raises(UsageError, match=rf"{input_format} is for HALF.*this one is FLOAT: export .* with --native-io"):
        layers(folder / "model.fp32.onnx", input_format)


def test_pixels_and_other_shapes_are_refused(folder: Path, tmp_path: Path) -> None:
    model = onnx.load(folder / "model.fp32.onnx")
    pixels = onnx.helper.make_node("Cast", ["pixels"], [model.graph.input[0].name], name="cast", to=TensorProto.FLOAT)
    shape = ["batch", 3, 224, 224]
    new = onnx.helper.make_tensor_value_info("pixels", TensorProto.UINT8, shape)
    model.graph.node.insert(0, pixels)
    del model.graph.input[:]
    model.graph.input.append(new)
    onnx.save(model, tmp_path / "pixels.onnx")
    with pytest.raises(UsageError, match="this one is UINT8: pixels are"):
        layers(tmp_path / "pixels.onnx", "hwc")


def test_options_that_cannot_be_meant() -> None:
    with pytest.raises(UsageError, match="choose from linear, hwc, chw4, hwc8, chw32"):
        BuildOptions(input_format="chw2")
    with pytest.raises(UsageError, match="the lean runtime tells no formats"):
        BuildOptions(input_format="chw4", version_compatible=True)
    with pytest.raises(UsageError, match="takes its input as DHWC8"):
        layout_of("DHWC8")
    assert layout_of("LINEAR") is None and BuildOptions(input_format="chw4").flags()["input_format"] == "chw4"
