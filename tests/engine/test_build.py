"""Graphs into TensorRT-RTX's parser and builder, which run without a GPU."""

from __future__ import annotations

import pytest

from resnet_deploy.bundle.store import Bundle
from resnet_deploy.engine.build import build_plan
from resnet_deploy.engine.flavours import TENSORRT, TENSORRT_RTX, Flavour
from resnet_deploy.engine.options import BuildOptions
from resnet_deploy.errors import EngineError
from resnet_deploy.specs import silent
from tests.helpers.engines import build
from tests.helpers.shared import graph

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: the extra rtx")


def test_the_trained_network_builds(digits_bundle: Bundle) -> None:
    assert len(bytes(build(digits_bundle.artifact("model.fp32.onnx")).plan)) > 1_000_000


@pytest.mark.slow
@pytest.mark.parametrize(("head", "input_format"), [("topk:5", "uint8"), ("features", "float"), ("embedding+l2", "uint8")])
def test_every_head_builds(head: str, input_format: str) -> None:
    assert build(graph(head, input_format)).layers


def test_the_path_of_tensorrt_itself(digits_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its package is not here; TensorRT-RTX takes the same calls, timing cache and compatibility level among them."""
    import tensorrt_rtx

    monkeypatch.setattr(Flavour, "load", lambda self: tensorrt_rtx)
    options = BuildOptions(
        batch="8", hardware_compatible="ampere-plus", sparse_weights=True, optimization_level=1, tiling_optimization="fast",
        max_aux_streams=0, avg_timing=4,
    )  # fmt: skip
    built = build_plan(digits_bundle.artifact("model.fp32.onnx"), options, TENSORRT, (), silent, timing_cache=None)
    assert built.layers and isinstance(built.timing_cache, bytes)
    without = BuildOptions(batch="8", timing_cache=False)
    assert build_plan(digits_bundle.artifact("model.fp32.onnx"), without, TENSORRT, (), silent).timing_cache is None


def test_the_packages_own_reason_is_told(digits_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    options = BuildOptions(batch="8", version_compatible=True)
    with pytest.raises(EngineError, match=r"cannot build model.fp32.onnx: Unable to load library: libnvinfer_lean"):
        build_plan(digits_bundle.artifact("model.fp32.onnx"), options, TENSORRT_RTX, ("sm86",), silent)
