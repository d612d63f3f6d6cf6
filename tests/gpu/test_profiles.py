"""What layers take on a GPU: named after the graph, and close to what an inference takes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import resnet_deploy as rd
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.benchmarking.layers.profile import LayerProfile, profile_layers
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.errors import MissingPackageError, UnavailableError
from resnet_deploy.pipeline.build import ensure_plan
from tests.helpers.contract import IMAGES
from tests.helpers.paths import DIGITS

HEAVY = ["conv1"] + [f"layer{i}.{j}.conv{k}" for i in (1, 2, 3) for j in (0, 1, 2) for k in (1, 2)]
PLANS = [f"{flavour}:{options}" for flavour in ("tensorrt", "tensorrt-rtx") for options in ("fp32", "fp16", "int8,streams=2")]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return rd.export(
        "resnet20", tmp_path_factory.mktemp("gpu") / "bundle", weights=DIGITS, input="uint8", max_batch=8,
        precision="fp32,fp16,int8", int8_target="tensorrt", calibration="digits:train",
    )  # fmt: skip


def profiled(bundle: Bundle, text: str, batch: int = 5) -> LayerProfile:
    opened, candidate = OpenedBundle(bundle), Candidate.parse(text)
    try:
        if candidate.backend.startswith("tensorrt"):
            ensure_plan(opened, candidate, (1, 5, 8))
        backend = opened.backend(candidate, 1)
    except (MissingPackageError, UnavailableError) as exc:
        pytest.skip(str(exc))
    with backend:
        before = backend.infer(IMAGES[:batch])["logits"]
        found = profile_layers(backend, IMAGES[:batch])
        assert (backend.infer(IMAGES[:batch])["logits"] == before).all(), "a profile changed an answer"
    return found


def close(found: LayerProfile) -> None:
    """Layers take at most the profiled inference, and no small part of it. A tenth is for two clocks."""
    assert found.total_s is not None and found.profiled_s is not None and found.latency_s is not None
    assert 0 < found.total_s <= 1.1 * found.profiled_s
    assert found.total_s >= 0.2 * found.latency_s


@pytest.mark.parametrize("text", PLANS)
def test_tensorrt(bundle: Bundle, text: str) -> None:
    found = profiled(bundle, text)
    close(found)
    named = [layer["name"] for layer in found.layers]
    made_of = {name for layer in found.layers for name in layer.get("onnx", [])}
    assert set(HEAVY) <= made_of, "a convolution has no time"
    assert len(set(HEAVY) & set(named)) >= len(HEAVY) - 2, named
    assert all(layer["kind"] != "unknown" for layer in found.layers), "the profiler's names are not the inspector's"
    kinds = {layer["precision"] for layer in found.layers if layer["name"] in HEAVY}
    assert Candidate.parse(text).precision.value in kinds


@pytest.mark.parametrize("flavour", ["tensorrt", "tensorrt-rtx"])
@pytest.mark.parametrize("batch", [1, 5, 8])
def test_every_optimization_profile_has_its_layers_named(bundle: Bundle, flavour: str, batch: int) -> None:
    found = profiled(bundle, flavour, batch=min(batch, 5))
    assert all(layer["kind"] != "unknown" and layer.get("onnx") for layer in found.layers if layer["share"] > 0.02)


@pytest.mark.parametrize("text", ["onnxruntime:cuda", "onnxruntime:cuda,fp16"])
def test_onnxruntime(bundle: Bundle, text: str) -> None:
    found = profiled(bundle, text)
    close(found)
    assert [layer["name"] for layer in found.layers if layer["name"] in HEAVY] == HEAVY
    assert {layer["precision"] for layer in found.layers if layer["name"] in HEAVY[1:]} == {
        Candidate.parse(text).precision.value
    }
    convolutions = sum(layer["share"] for layer in found.layers if layer["name"] in HEAVY)
    assert convolutions > 0.3, "kernels were not waited for: every operator takes as long as its launch"


def test_onnxruntimes_tensorrt_provider_is_one_layer(bundle: Bundle) -> None:
    found = profiled(bundle, "onnxruntime:tensorrt")
    assert found.layers and found.total_s


@pytest.mark.parametrize("text", ["eager:cuda", "eager:cuda,fp16,channels_last,cuda_graph"])
def test_eager(bundle: Bundle, text: str) -> None:
    found = profiled(bundle, text)
    close_enough = found.total_s is not None and found.profiled_s is not None and 0 < found.total_s <= 1.1 * found.profiled_s
    assert close_enough and [layer["name"] for layer in found.layers if layer["name"] in HEAVY] == HEAVY


def test_compiled_kernels_have_times(bundle: Bundle) -> None:
    found = profiled(bundle, "eager:cuda,compile")
    assert found.layers and found.total_s is not None and found.total_s > 0


def test_trtexec(bundle: Bundle, tmp_path: Path) -> None:
    if shutil.which("trtexec") is None:
        pytest.skip("trtexec is not on PATH")
    copied = shutil.copytree(bundle.path, tmp_path / "b")
    report = rd.bench(copied, backend=["tensorrt"], precision="fp32,fp16", batch="1,8", duration=1.0, check_trtexec=True)
    assert len(report.trtexec) == 4 and not [one.error for one in report.trtexec if one.error]
    for one in report.trtexec:
        assert one.difference is not None and abs(one.difference) < 0.5
