"""Graphs into TensorRT-RTX's parser and builder, which run without a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

from resnet_deploy.building import graph_layers
from resnet_deploy.bundle import Bundle
from resnet_deploy.engine.build import Built, build_plan
from resnet_deploy.engine.flavours import TENSORRT_RTX
from resnet_deploy.engine.options import BuildOptions
from resnet_deploy.engine.report import summarize
from resnet_deploy.exporter import export_onnx
from resnet_deploy.specs import silent
from tests.test_exporter import deploy

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: the extra rtx")


def build(path: Path, target: str = "sm86") -> Built:
    return build_plan(path, BuildOptions(batch="1:2:8"), TENSORRT_RTX, (target,), silent)


def build_report(path: Path, target: str) -> dict[str, str]:
    """Of every convolution, by the name of its node, the precision of the engine layer that computes it."""
    return summarize(build(path, target).layers, *graph_layers(path)).layers


def test_the_trained_network_builds(digits_bundle: Bundle) -> None:
    assert len(bytes(build(digits_bundle.artifact("model.fp32.onnx")).plan)) > 1_000_000


@pytest.mark.parametrize(("head", "input_format"), [("topk:5", "uint8"), ("features", "float"), ("embedding+l2", "uint8")])
def test_every_head_builds(tmp_path: Path, head: str, input_format: str) -> None:
    export_onnx(deploy(head=head, input_format=input_format), tmp_path / "m.onnx", max_batch=8)
    assert build(tmp_path / "m.onnx").layers
