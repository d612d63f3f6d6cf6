"""What is written to a Triton repository, without a server: names, profiles, plans, releases, bounds, and every refusal."""

from __future__ import annotations

import ast
import dataclasses
import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import resnet_deploy as rd
from resnet_deploy.bundle.codec import now
from resnet_deploy.bundle.fields import Latency
from resnet_deploy.bundle.records import MeasurementRecord
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.engine.plan import Origin
from resnet_deploy.errors import DataError, RepositoryError, ServingError, UsageError
from resnet_deploy.pipeline.lower import lower
from resnet_deploy.pipeline.lowering_options import LoweringOptions
from resnet_deploy.serving.triton.model_config import read_config
from resnet_deploy.serving.triton.options import TritonOptions
from resnet_deploy.serving.triton.releases import RELEASES, fits, tensorrt_of
from resnet_deploy.serving.triton.steps import classify
from resnet_deploy.serving.triton.steps.classify import TritonPythonModel
from resnet_deploy.specs import silent
from tests.helpers.cli import fails, load, run
from tests.helpers.triton import with_tensorrt

L4 = ("NVIDIA L4", "8.9")


@pytest.fixture
def bundle(digits_bundle: Bundle, tmp_path: Path) -> Bundle:
    """A copy that may be changed."""
    return Bundle.open(shutil.copytree(digits_bundle.path, tmp_path / "bundle"))


def config_of(found: Any) -> Any:
    return read_config(found.path / found.entry.name / "config.pbtxt")


def test_a_graph_is_configured_from_the_artifact(bundle: Bundle, tmp_path: Path) -> None:
    config = config_of(rd.write_triton(bundle, tmp_path / "models"))
    (given,), (answer,) = config.input, config.output
    assert (config.name, config.platform, config.max_batch_size) == ("resnet20", "onnxruntime_onnx", 8)
    assert (given.name, given.data_type, list(given.dims), given.format) == ("input", 2, [32, 32, 3], 1)  # UINT8, NHWC
    assert (answer.name, answer.data_type, list(answer.dims), answer.label_filename) == ("logits", 11, [10], "labels.txt")
    assert (tmp_path / "models" / "resnet20" / "labels.txt").read_text().split() == [str(number) for number in range(10)]
    assert config.dynamic_batching.max_queue_delay_microseconds == 500 and not config.dynamic_batching.preferred_batch_size
    assert [(group.count, group.kind) for group in config.instance_group] == [(1, 2)]  # CPU
    assert [warm.batch_size for warm in config.model_warmup] == [1, 8]
    assert list(config.model_warmup[1].inputs["input"].dims) == [32, 32, 3]
    assert not config.HasField("response_cache") and not config.optimization.cuda.graphs
    copied = tmp_path / "models" / "resnet20" / "1" / "model.onnx"
    assert copied.read_bytes() == bundle.artifact("model.fp32.onnx").read_bytes()


def test_options_reach_the_configuration(bundle: Bundle, tmp_path: Path) -> None:
    found = rd.write_triton(
        bundle, tmp_path / "models", name="n", instances=3, max_batch=4, max_delay=2e-3, version_policy="all", warm_up=False,
        response_cache=True, threads=2, device="cpu",
    )  # fmt: skip
    config = config_of(found)
    assert (config.max_batch_size, config.instance_group[0].count, len(config.model_warmup)) == (4, 3, 0)
    assert config.dynamic_batching.max_queue_delay_microseconds == 2000 and config.response_cache.enable
    assert config.version_policy.WhichOneof("policy_choice") == "all"
    assert config.parameters["intra_op_thread_count"].string_value == "2"
    assert any("--cache-config" in warning for warning in found.warnings)
    gpu = config_of(rd.write_triton(bundle, tmp_path / "models", name="g", device="gpu"))
    assert [(group.count, group.kind) for group in gpu.instance_group] == [(2, 1)]
    pinned = config_of(rd.write_triton(bundle, tmp_path / "models", name="p", version_policy="specific:1,3"))
    assert list(pinned.version_policy.specific.versions) == [1, 3]


def test_plans_bring_their_profiles_and_gpus(bundle: Bundle, tmp_path: Path) -> None:
    name = with_tensorrt(bundle, *L4, profiles=["1:1:1", "2:4:8"])
    config = config_of(rd.write_triton(bundle, tmp_path / "one", platform="tensorrt"))
    assert (config.platform, config.max_batch_size, config.default_model_filename) == ("tensorrt_plan", 8, "model.plan")
    assert list(config.instance_group[0].profile) == ["0", "1"] and config.instance_group[0].count == 2
    assert list(config.dynamic_batching.preferred_batch_size) == [4] and config.optimization.cuda.graphs
    assert [warm.batch_size for warm in config.model_warmup] == [1, 4, 8]
    small = config_of(rd.write_triton(bundle, tmp_path / "small", platform="tensorrt", max_batch=1, cuda_graphs=False))
    assert list(small.instance_group[0].profile) == ["0"] and not small.dynamic_batching.preferred_batch_size
    assert not small.optimization.cuda.graphs

    with_tensorrt(bundle, "NVIDIA H200", "9.0", profiles=["1:1:1", "2:4:8"])
    found = rd.write_triton(bundle, tmp_path / "two", platform="tensorrt")
    assert dict(config_of(found).cc_model_filenames) == {"8.9": "model.nvidia-l4.plan", "9.0": "model.nvidia-h200.plan"}
    assert sorted(path.name for path in found.entry.path.iterdir()) == ["model.nvidia-h200.plan", "model.nvidia-l4.plan"]
    assert any("--release 26.09" in warning for warning in found.warnings)
    chosen = rd.write_triton(bundle, tmp_path / "chosen", platform="tensorrt", plan=name)
    assert (chosen.entry.path / "model.plan").read_bytes() == (bundle.path / name).read_bytes()


def test_plans_that_do_not_serve_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    def refused(words: str, **options: Any) -> None:
        with pytest.raises(UsageError, match=words):
            rd.write_triton(bundle, tmp_path / "models", platform="tensorrt", **options)
        assert not (tmp_path / "models").exists()

    refused("no plan of model.fp32.onnx for tensorrt; make one with `resnet-deploy build")
    refused("has no model.int8.onnx", precision="int8")
    with_tensorrt(bundle, *L4, profiles=["2:4:8"])
    refused("no profile for batch 1, .*--batch 1:8:8")
    with_tensorrt(bundle, *L4, flags={"input_format": "chw4"})
    refused("takes its images in a layout that clients do not send: build it without --input-format")
    with_tensorrt(bundle, *L4)
    refused("is for batches up to 8, not 16", max_batch=16)
    refused("other.plan is not a plan of model.fp32.onnx", plan="other.plan")
    with_tensorrt(bundle, "NVIDIA L40", "8.9")
    refused("for compute capability 8.9 both; choose one with --plan")
    with_tensorrt(bundle, "NVIDIA L40", "8.9", profiles=["1:8:8"])
    refused("different profiles; choose one with --plan")


def test_the_newest_version_of_tensorrt_is_served_or_the_one_that_a_release_reads(bundle: Bundle, tmp_path: Path) -> None:
    for version in ("10.15.1.29", "11.2.1.2", "11.3.0.99"):
        with_tensorrt(bundle, *L4, version=version)

    def served(**options: Any) -> str:
        found = rd.write_triton(bundle, tmp_path / str(options), platform="tensorrt", **options)
        return (found.entry.path / "model.plan").read_text().split("-")[1].split(".nvidia")[0]

    assert served() == "11.3.0.99" == served(release="26.09") == served(release="tensorrt-11.3")
    assert served(release="26.08") == "11.2.1.2" and served(release="26.02") == "10.15.1.29"
    with pytest.raises(ServingError) as refusal:
        rd.write_triton(bundle, tmp_path / "models", platform="tensorrt", release="26.06")
    said = str(refusal.value)
    assert "Triton 26.06 carries tensorrt 11.0" in said and "pip install 'tensorrt==11.0.*'" in said
    assert "resnet-deploy build" in said and "--flavour tensorrt" in said and "serve it with Triton 26.02" in said
    assert not (tmp_path / "models").exists()


def test_releases() -> None:
    plan = Origin(flavour="tensorrt", version="10.16.1.11", platform="Linux-x86_64", gpu="NVIDIA L4", compute_capability="8.9")
    compatible = dataclasses.replace(plan, version_compatible=True)
    assert [release for release, carried in RELEASES.items() if fits(plan, carried)] == ["26.05"]
    assert fits(compatible, tensorrt_of("26.09")) and not fits(compatible, tensorrt_of("26.02")), "forward, never back"
    assert not fits(dataclasses.replace(plan, flavour="tensorrt-rtx"), "10.16.1.11")
    assert not fits(plan, "10.16.1.1") and fits(plan, "10.16")
    with pytest.raises(UsageError, match=r"not in this version's table.*libnvinfer"):
        tensorrt_of("19.03")
    with pytest.raises(UsageError, match="neither a Triton release"):
        tensorrt_of("newest")


def measured(bundle: Bundle, candidate: str, artifact: str, p99_s: dict[int, float]) -> None:
    """Measurements as `bench` records them."""
    records = {}
    for size, time_s in p99_s.items():
        latency = Latency(p50=time_s / 2, p90=time_s, p99=time_s, mean=time_s, iqr=0.0)
        records[f"{size:016x}"] = MeasurementRecord(
            candidate=candidate, made_from=bundle.sha256(artifact), batch=size, measured=now(), latency_s=latency,
            device_latency_s=latency, threads=1, runtime={}, images_per_s=1.0, samples=9, noisy=False, warm=True, warmup_runs=1,
        )  # fmt: skip
    bundle.record("measurements", records)


def test_a_latency_bound_chooses_batch_and_delay(bundle: Bundle, tmp_path: Path) -> None:
    name = with_tensorrt(bundle, *L4, profiles=["1:1:1", "1:4:8"])
    with pytest.raises(UsageError, match=r"no measurement .*resnet-deploy bench .* --backend tensorrt"):
        rd.write_triton(bundle, tmp_path / "none", platform="tensorrt", latency_bound=0.015)
    measured(bundle, "tensorrt", name, {1: 1e-3, 4: 3e-3, 8: 5e-3})

    def chosen(bound_s: float, **options: Any) -> tuple[int, list[int], int]:
        folder = tmp_path / f"{bound_s} {options}"
        config = config_of(rd.write_triton(bundle, folder, platform="tensorrt", latency_bound=bound_s, **options))
        batching = config.dynamic_batching
        return config.max_batch_size, list(batching.preferred_batch_size), batching.max_queue_delay_microseconds

    # Two instances share the GPU: 2 x 5 ms for the batch before, and as much for its own.
    assert chosen(0.020) == (8, [4], 500)
    assert chosen(0.015) == (4, [4], 500)
    assert chosen(0.015, instances=1) == (8, [4], 500)
    assert chosen(0.004) == (1, [], 500) and chosen(0.002, instances=1) == (1, [], 500)
    assert chosen(0.0101, instances=1, max_delay=0.006) == (4, [4], 6000), "the delay that was asked for stays"
    with pytest.raises(ServingError, match=r"no batch keeps 1 ms: a request needs up to 4 ms at batch 1, whose p99 is 1 ms"):
        chosen(0.001)


def test_the_bound_is_kept_by_what_bench_measured(bundle: Bundle, tmp_path: Path) -> None:
    rd.bench(bundle, backend=["onnxruntime"], batch="1,4", duration=0.05, threads=1)
    assert config_of(rd.write_triton(bundle, tmp_path / "a", latency_bound=60)).max_batch_size == 4, "the largest that is known"
    message = fails(1, "triton", bundle.path, "-o", tmp_path / "b", "--latency-bound", "1us")
    assert "no batch keeps 0.001 ms" in message and not (tmp_path / "b").exists()


def test_a_file_of_labels(bundle: Bundle, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("".join(f"class {number}\n" for number in range(10)), "utf-8")
    rd.write_triton(bundle, tmp_path / "models", labels=names, ensemble="jpeg")
    assert (tmp_path / "models" / "resnet20" / "labels.txt").read_text() == names.read_text()
    assert (tmp_path / "models" / "resnet20_classify" / "1" / "labels.txt").read_text() == names.read_text()
    with pytest.raises(RepositoryError, match=r"labels.txt: other content"):
        rd.write_triton(bundle, tmp_path / "models")
    names.write_text("one\ntwo\n")
    with pytest.raises(DataError, match="has 2 lines; the model has 10 classes"):
        rd.write_triton(bundle, tmp_path / "other", labels=names)
    with pytest.raises(DataError, match="cannot be read as labels"):
        rd.write_triton(bundle, tmp_path / "other", labels=tmp_path / "none.txt")


def test_bfloat16_is_served_but_not_from_image_files(bundle: Bundle, tmp_path: Path) -> None:
    lower(bundle, LoweringOptions(precision=("fp16", "bf16"), native_io=True), silent)
    with pytest.raises(UsageError, match="onnxruntime has no option 'bf16'"):
        rd.write_triton(bundle, tmp_path / "models", precision="bf16")
    with_tensorrt(bundle, *L4, graph="model.bf16.onnx")
    config = config_of(rd.write_triton(bundle, tmp_path / "models", precision="bf16", platform="tensorrt"))
    assert (config.input[0].data_type, config.output[0].data_type) == (2, 14), "pixels in, bfloat16 out"
    with pytest.raises(UsageError, match="cannot read or write bfloat16"):
        rd.write_triton(bundle, tmp_path / "files", precision="bf16", platform="tensorrt", ensemble="jpeg")
    half = config_of(rd.write_triton(bundle, tmp_path / "models", name="half", precision="fp16"))
    assert half.output[0].data_type == 10


def test_classify_of_float16_scores() -> None:
    step = TritonPythonModel()
    step.top_k, step.logits, step.labels = 2, True, np.array(["a", "b", "c"], np.object_)
    found = step.classify(np.array([[1, 3, 2], [1e4, 0, 0]], np.float16))
    assert found["topk_labels"].tolist() == [["b", "c"], ["a", "b"]] and found["topk_indices"].dtype == np.int64
    assert found["probabilities"].dtype == np.float32 and np.isfinite(found["probabilities"]).all()
    np.testing.assert_allclose(found["probabilities"].sum(1), 1, atol=1e-6)


def test_labels_end_at_a_line_feed_alone(tmp_path: Path) -> None:
    """As they are written; a name with another end of a line in it would shift all that follow."""
    (tmp_path / "model.py").write_bytes(Path(classify.__file__).read_bytes())
    (tmp_path / "labels.txt").write_bytes("two\u2028lines\nnext\x85one\nc\n".encode())
    spec = importlib.util.spec_from_file_location("model_beside_labels", tmp_path / "model.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    step = module.TritonPythonModel()
    parameters = {"top_k": {"string_value": "1"}, "scores": {"string_value": "logits"}}
    step.initialize({"model_config": json.dumps({"parameters": parameters})})
    assert step.labels.tolist() == ["two\u2028lines", "next\x85one", "c"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"precision": "int4"}, "unknown precision 'int4'; choose from fp32"),
        ({"platform": "openvino"}, "unknown platform"),
        ({"device": "tpu"}, "unknown device"),
        ({"flavour": "rtx"}, "unknown flavour"),
        ({"ensemble": "png"}, "unknown ensemble"),
        ({"name": "../up"}, "not a model's name"),
        ({"name": "a/b"}, "not a model's name"),
        ({"instances": 0}, "instances must be .* at least 1"),
        ({"max_batch": 0}, "max_batch must be .* at least 1"),
        ({"top_k": 0}, "top_k must be .* at least 1"),
        ({"max_delay": -1.0}, "at least 0 and at most 60 s"),
        ({"latency_bound": 0.0}, "above 0"),
        ({"version_policy": "newest"}, "a version policy is latest:N"),
        ({"version_policy": "latest:0"}, "a version policy is latest:N"),
        ({"version_policy": "specific:"}, "a version policy is latest:N"),
        ({"version_policy": "specific:1,x"}, "a version policy is latest:N"),
        ({"release": "26.09"}, "add --platform tensorrt"),
        ({"plan": "model.plan"}, "add --platform tensorrt"),
        ({"platform": "tensorrt", "device": "cpu"}, "plans run on GPUs"),
        ({"platform": "tensorrt", "threads": 2}, "--threads is for ONNX Runtime"),
        ({"device": "gpu", "threads": 2}, "--threads is for ONNX Runtime"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        TritonOptions(**options)


def test_the_command(bundle: Bundle, tmp_path: Path) -> None:
    target = tmp_path / "models"
    shown = run("triton", bundle.path, "-o", target, "--ensemble", "jpeg", "--max-delay", "1ms")
    assert shown.exit_code == 0, shown.stderr
    assert "topk_labels STRING [batch, 5]" in shown.stdout and "1000 us" in shown.stdout and "Pillow" in shown.stderr
    again = load(run("triton", bundle.path, "-o", target, "--ensemble", "jpeg", "--max-delay", "1ms", "--json"))
    assert [(m["name"], m["version"], m["reused"]) for m in again["models"]] == [
        ("resnet20", 1, True), ("resnet20_decode", 1, True), ("resnet20_classify", 1, True), ("resnet20_jpeg", 1, True),
    ]  # fmt: skip
    assert json.dumps(again) and again["models"][0]["config"]["max_batch_size"] == 8
    assert "configured otherwise" in fails(2, "triton", bundle.path, "-o", target)
    assert "not a time with its unit" in fails(2, "triton", bundle.path, "-o", target, "--max-delay", "500")
    assert "no bundle at" in fails(2, "triton", tmp_path / "none", "-o", target)
    (bundle.path / "model.fp32.onnx").write_bytes(b"changed")
    assert "was changed after it was made" in fails(2, "triton", bundle.path, "-o", tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_the_decoding_step_has_all_that_it_imports(bundle: Bundle, tmp_path: Path) -> None:
    """Beside numpy and Pillow, as in a server: a module of ours that is not written beside it is not there."""
    found = rd.write_triton(bundle, tmp_path / "models", name="n", ensemble="jpeg")
    (model,) = found.path.glob("n_decode/*/model.py")
    code = "import importlib.util, sys; spec = importlib.util.spec_from_file_location('model', sys.argv[1]); "
    code += "spec.loader.exec_module(importlib.util.module_from_spec(spec)); "
    code += (
        "print({getattr(module, '__file__', '') for name, module in sys.modules.items() if name.startswith('resnet_deploy')})"
    )
    done = subprocess.run([sys.executable, "-c", code, model], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert all(file.startswith(str(model.parent)) for file in ast.literal_eval(done.stdout))
