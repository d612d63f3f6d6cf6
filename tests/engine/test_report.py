"""Reading what TensorRT says of its layers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from resnet_deploy import _json
from resnet_deploy.engine.report import EngineLayer, PlanReport, from_builder, from_inspector, summarize
from resnet_deploy.terminal.build import float_outputs


def line(name: str, kind: str, data: str | None, metadata: str) -> str:
    tensor = "" if data is None else f" {{ Name: x, Dimensions: [1,4], Datatype: {data}, Format: (NHWC) f }}"
    return (
        f"Name: {name}, LayerType: {kind}, Inputs: [{tensor}], Constants: [ {{ Name: w, Datatype: Half }}], "
        f"Outputs: [{tensor}], TacticName: t, StreamId: 0, Metadata: {metadata}"
    )


FIRST = [
    line("__mye1_0_myl0_0", "shape_call", None, ""),
    line("conv1_U1_myl0_1", "correlation", "Int8", "[ONNX Layer: conv1][ONNX Layer: conv1.weight.dq]"),
    line("__myl_MulAddRelu_myl0_2", "kgen", "Float", "[ONNX Layer: conv1][ONNX Layer: add]"),
    line("__myl_CorrAdd_myl0_3", "runtime_fusion", "Half", "[ONNX Layer: conv2][ONNX Layer: add2]"),
    line("__myl_TranMove_myl0_4", "kgen", "Half", ""),
    line("g_myl0_5", "gemm", "FP8", "[ONNX Layer: conv3]__gemm_from_conv1x1"),
]
SECOND = [text.replace("_myl0_", "_myl1_").replace("Int8", "Float") for text in FIRST]


def test_the_builders_lines() -> None:
    report = summarize(from_builder(["noise", *FIRST, *SECOND]), ["conv1", "conv2", "conv3", "gone"], ["add", "add2"])
    assert report.layers == {"conv1": "int8", "conv2": "fp16", "conv3": "fp8"}
    assert report.convolutions == {"int8": 1, "fp16": 1, "fp8": 1}
    assert report.unfused_adds == ("add",) and report.reformats == 1
    assert report.float_outputs == (), "conv1 writes what it computes in"
    assert len(report.engine_layers) == len(FIRST), "another profile's kernels are not counted"
    assert _json.decode(_json.encode(report), PlanReport) == report


def test_quantized_convolutions_that_write_floats() -> None:
    unfused = [text.replace('Outputs: [ { Name: x, Dimensions: [1,4], Datatype: Int8', 'Outputs: [ { Name: x, Datatype: Float')
               for text in FIRST]  # fmt: skip
    report = summarize(from_builder(unfused), ["conv1", "conv2", "conv3"], [])
    assert report.float_outputs == ("conv1",) and report.to_dict()["float_outputs"] == ("conv1",)
    assert "1 of 2 quantized convolutions write floats" in float_outputs(report)
    assert float_outputs(summarize(from_builder(FIRST), ["conv1", "conv2", "conv3"], [])) == ""


def test_a_second_part_of_the_same_profile_counts() -> None:
    more = line("fc_myl1_0", "gemm", "Float", "[ONNX Layer: fc]")
    assert len(from_builder([*FIRST, more])) == len(FIRST) + 1


INSPECTED = {
    "Layers": [
        {"Name": "Reformatting CopyNode for Input Tensor 0 to conv1", "LayerType": "Reformat", "Metadata": "",
         "Inputs": [{"Name": "input", "Format/Datatype": "Row major linear FP32"}],
         "Outputs": [{"Name": "a", "Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format"}]},
        {"Name": "conv1 + relu", "LayerType": "CaskConvolution", "Metadata": "[ONNX Layer: conv1]\x1e[ONNX Layer: relu]",
         "Inputs": [{"Name": "a", "Format/Datatype": "Int8 NC/32HW32"}], "Outputs": [{"Format/Datatype": "Int8 NC/32HW32"}]},
        {"Name": "conv2 + add", "LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "Half NHWC8"}],
         "Outputs": [{"Format/Datatype": "Half NHWC8"}]},
        {"Name": "conv2 + add [profile 1]", "LayerType": "CaskConvolution", "Inputs": [], "Outputs": []},
        "only a name",
    ],
    "Bindings": ["input", "logits"],
}  # fmt: skip


def test_the_inspectors_json() -> None:
    report = summarize(from_inspector(json.dumps(INSPECTED)), ["conv1", "conv2"], ["add"])
    assert report.layers == {"conv1": "int8", "conv2": "fp16"}
    assert report.reformats == 1 and report.unfused_adds == () and len(report.engine_layers) == 3
    assert report.engine_layers[0].precision == "fp32" and report.engine_layers[0].output == "int8"


@pytest.mark.parametrize(
    ("text", "precision"),
    [("Float", "fp32"), ("Half", "fp16"), ("BFloat16", "bf16"), ("BF16 x", "bf16"), ("FP8", "fp8"), ("Float8E4M3", "fp8"),
     ("Int8", "int8"), ("UInt8", "uint8"), ("Int64", "int64"), ("Row major linear FP16 format", "fp16")],
)  # fmt: skip
def test_types(text: str, precision: str) -> None:
    one: dict[str, Any] = {"Name": "n", "LayerType": "k", "Inputs": [{"Format/Datatype": text}], "Outputs": []}
    assert from_inspector(json.dumps({"Layers": [one]}))[0].precision == precision


def test_which_kernels_only_move_data() -> None:
    def layer(name: str, kind: str = "kgen") -> EngineLayer:
        return EngineLayer(name=name, kind=kind, precision="fp16", output="fp16", onnx=())

    assert layer("__myl_Tran_myl0_7").reformats and layer("x", "Reformat").reformats
    assert not layer("__myl_TranMulAdd_myl0_7").reformats and not layer("conv1").reformats
