"""The exported graphs go into TensorRT-RTX's parser and builder, which run without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from resnet_deploy.bundle import Bundle
from resnet_deploy.exporter import export_onnx
from tests.test_exporter import deploy

trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: the extra rtx")


def build(path: Path) -> Any:
    """Parse and build for batches 1 to 8; the parser's own words where it refuses."""
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(path)), [str(parser.get_error(i)) for i in range(parser.num_errors)]
    tensor = network.get_input(0)
    shape = tuple(tensor.shape)[1:]
    profile = builder.create_optimization_profile()
    profile.set_shape(tensor.name, (1, *shape), (2, *shape), (8, *shape))
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    return builder.build_serialized_network(network, config)


def test_the_trained_network_builds(digits_bundle: Bundle) -> None:
    assert build(digits_bundle.artifact("model.fp32.onnx")).nbytes > 1_000_000


@pytest.mark.parametrize(("head", "input_format"), [("topk:5", "uint8"), ("features", "float"), ("embedding+l2", "uint8")])
def test_every_head_builds(tmp_path: Path, head: str, input_format: str) -> None:
    export_onnx(deploy(head=head, input_format=input_format), tmp_path / "m.onnx", max_batch=8)
    assert build(tmp_path / "m.onnx") is not None
