"""The exported graphs go into TensorRT-RTX's parser and builder, which run without a GPU."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from resnet_deploy.bundle import Bundle
from resnet_deploy.exporter import export_onnx
from tests.test_exporter import deploy

trt = pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: the extra rtx")


class Listener(trt.ILogger):  # type: ignore[misc]
    """Keeps what the builder says: its layer report is a message."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.lines: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        self.lines += message.splitlines()


def build_report(path: Path, capability: str) -> dict[str, str]:
    """Of every convolution, by the name of its node, the type of what it reads in a plan for one compute capability."""
    listener = Listener()
    assert build(path, listener, capability) is not None
    found = {}
    for line in listener.lines:
        layer = re.match(r"Name: (\S+?)_U\d+_myl\S*, LayerType: correlation, Inputs: \[ \{ Name: .*?Datatype: (\w+)", line)
        if layer:
            found[layer[1]] = layer[2]
    return found


def build(path: Path, logger: Any = None, capability: str | None = None) -> Any:
    """Parse and build for batches 1 to 8; the parser's own words where it refuses."""
    logger = logger or trt.Logger(trt.Logger.ERROR)
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
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if capability is not None:  # with SM75 among them, as by default, no target would get INT8
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, capability), 0)
    return builder.build_serialized_network(network, config)


def test_the_trained_network_builds(digits_bundle: Bundle) -> None:
    assert build(digits_bundle.artifact("model.fp32.onnx")).nbytes > 1_000_000


@pytest.mark.parametrize(("head", "input_format"), [("topk:5", "uint8"), ("features", "float"), ("embedding+l2", "uint8")])
def test_every_head_builds(tmp_path: Path, head: str, input_format: str) -> None:
    export_onnx(deploy(head=head, input_format=input_format), tmp_path / "m.onnx", max_batch=8)
    assert build(tmp_path / "m.onnx") is not None
