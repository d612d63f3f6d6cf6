"""The command line: what it prints, what it makes, and how it ends."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_deploy.bundle.store import Bundle
from tests.helpers.cli import FAST, fails, load, run
from tests.helpers.paths import DIGITS


@pytest.fixture
def bundle(digits_bundle: Bundle, tmp_path: Path) -> Path:
    """A copy that may be changed."""
    shutil.copytree(digits_bundle.path, tmp_path / "bundle")
    return tmp_path / "bundle"


def test_models() -> None:
    rows = {row["name"]: row for row in load(run("models", "--json"))["models"]}
    assert rows["resnet50"]["parameters"] == 25_557_032
    assert rows["resnet50"]["macs"] / 1e9 == pytest.approx(4.089, abs=0.001)
    assert [w["name"] for w in rows["resnet50"]["weights"]] == ["IMAGENET1K_V1", "IMAGENET1K_V2"]
    text = run("models").stdout
    assert "resnext101_64x4d" in text and "1,727,962" in text


def test_doctor_tries_every_backend() -> None:
    findings = {row["name"]: row for row in load(run("doctor", "--json"))["backends"]}
    for name in ("eager (CPU)", "onnxruntime (CPU)", "OpenVINO (CPU)"):
        assert findings[name]["status"] == "works"
    assert findings["TensorRT-RTX"]["status"] in {"builds", "works"}
    for row in findings.values():
        assert row["status"] != "missing" or row["detail"], row
    if findings["TensorRT"]["status"] == "missing":
        assert 'pip install "resnet-deploy[gpu]"' in findings["TensorRT"]["detail"]


def test_export_makes_a_bundle_and_then_has_nothing_to_do(tmp_path: Path) -> None:
    out = tmp_path / "b"
    args = ("export", "resnet20", "--weights", DIGITS, "--head", "topk:3", "--input", "uint8", "--max-batch", "4", "-o", out)
    text = run(*args)
    assert text.exit_code == 0, text.stderr
    assert "input   input uint8 [batch, 32, 32, 3]" in text.stdout and "topk_indices int64 [batch, 3]" in text.stdout
    assert "batch 1, 2, 4" in text.stdout
    before = {path.name: path.stat().st_mtime_ns for path in out.iterdir()}
    again = load(run(*args, "--json"))
    assert {path.name: path.stat().st_mtime_ns for path in out.iterdir()} == before, "the second run wrote something"
    model = again["model"]
    assert model["weights"]["sha256"] and model["preprocessing"]["resize"] == 32 and model["class_names"][3] == "3"
    assert model["preprocessing"]["mean"] != pytest.approx([0.4914, 0.4822, 0.4465]), "the checkpoint's own, not CIFAR's"
    assert [spec["name"] for spec in model["outputs"]] == ["topk_values", "topk_indices"]
    assert "--mean is" in fails(2, *args, "--mean", "0.5,0.5,0.5"), "another request would lose what is there"
    changed = load(run(*args, "--mean", "0.5,0.5,0.5", "--overwrite", "--json"))
    assert changed["model"]["preprocessing"]["mean"] == [0.5] * 3, "what was asked for now is made now"
    assert changed["model"]["preprocessing_source"]["mean"] == "option"


def test_verify_passes_and_is_recorded(bundle: Path) -> None:
    result = load(run("verify", bundle, "--data", "digits", "--json"))["results"][0]
    assert result["gate"] == "pass" and result["data"]["images"] == 600
    parity = result["parity"]
    assert parity["top1_accuracy"] == parity["reference_top1_accuracy"] > 0.99
    assert parity["accuracy_difference_low"] <= 0 <= parity["accuracy_difference_high"]
    assert parity["max_rel_error"] < 1e-4 and parity["cosine_min"] > 0.9999
    recorded = list(Bundle.open(bundle).manifest.parity.values())
    assert recorded[0].report.to_dict() == parity and recorded[0].data.sha256 and recorded[0].runtime["providers"]


def test_a_failed_gate_is_exit_code_1_and_says_what_was_found(bundle: Path) -> None:
    said = fails(1, "verify", bundle, "--data", "digits", "--limit", "50", "--gate", "max-abs-error=1e-12")
    assert "FAILED onnxruntime: max-abs-error is" in said and "gate <= 1e-12" in said
    said = fails(1, "bench", bundle, "--data", "digits", "--limit", "50", *FAST, "--gate", "top1-accuracy=1.01")
    assert "top1-accuracy" in said


def test_verify_skips_bad_images_and_says_so(bundle: Path, tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(folder / "good.png")
    (folder / "bad.jpg").write_bytes(b"not an image")
    done = run("verify", bundle, "--data", folder)
    assert done.exit_code == 0 and "1 images of" in done.stdout and "skipped" in done.stderr and "bad.jpg" in done.stderr
    assert "bad.jpg" in fails(2, "verify", bundle, "--data", folder, "--strict")


def test_bench_json_is_the_contract(bundle: Path) -> None:
    report = load(run("bench", bundle, "--data", "digits", *FAST, "--json"))
    assert set(report) >= {"machine", "model", "results"}
    assert report["machine"]["cpu"] and report["machine"]["packages"]["torch"]
    assert [(r["backend"], r["batch"]) for r in report["results"]] == [
        ("eager", 1), ("onnxruntime", 1), ("openvino", 1), ("eager", 2), ("onnxruntime", 2), ("openvino", 2),
    ]  # fmt: skip
    for row in report["results"]:
        assert row["device"] == "cpu" and row["precision"] == "fp32" and row["gate"] == "pass"
        assert set(row["latency_s"]) >= {"p50", "p90", "p99", "mean"}
        assert row["images_per_s"] == pytest.approx(row["batch"] / row["latency_s"]["p50"])
        assert {
            "top1_agreement", "max_abs_error", "cosine_min", "top1_accuracy", "reference_top1_accuracy",
        } <= set(row["parity"])  # fmt: skip
        assert row["parity"]["top1_accuracy"] > 0.99 and row["threads"] == 1
        assert row["artifact"] == ("weights.safetensors" if row["backend"] == "eager" else "model.fp32.onnx")
        assert row["gates"][0]["metric"] == "top1-agreement" and row["gates"][0]["passed"] and row["size_bytes"] > 1e6
    decision = report["decision"]
    assert decision["text"].startswith(
        {"deploy": "Deploy model.fp32.onnx with O", "none": "Nothing to deploy"}[decision["kind"]]
    )
    assert decision["row"] is None or report["results"][decision["row"]]["artifact"] == decision["artifact"]


def test_bench_again_does_only_what_is_missing(bundle: Path) -> None:
    args = ("bench", bundle, "--data", "digits", "--limit", "20", "--json", *FAST)
    first = load(run(*args))["results"]
    assert load(run(*args))["results"] == first, "nothing is measured twice"
    more = load(run(*args, "--batch", "1,4"))["results"]
    assert more[:3] == first[:3] and more[3]["batch"] == 4
    assert load(run(*args, "--fresh"))["results"][0]["latency_s"] != first[0]["latency_s"]
    samples = json.loads(Bundle.open(bundle).artifact("samples.json").read_text())
    assert len(samples) == 9 and all(len(s["host_s"]) >= 12 for s in samples.values()), "raw samples are kept"


def test_bench_of_an_architecture_does_everything(tmp_path: Path) -> None:
    out = tmp_path / "b"
    done = run("bench", "resnet20", "--weights", DIGITS, "--data", "digits", "--limit", "30", "-o", out, *FAST)
    assert done.exit_code == 0, done.stderr
    assert "onnxruntime" in done.stdout and "pass" in done.stdout and "30 images of digits" in done.stdout
    lines = done.stdout.splitlines()
    assert lines[-1].startswith(("Deploy model.fp32.onnx with ", "Nothing to deploy: ")), "it ends in the answer"
    assert any(line.endswith("top-1 agreement 100%, needs 99.9%") for line in lines)
    assert any("model.fp32.onnx" in line for line in lines) and (out / "model.fp32.onnx").is_file()


def test_random_weights_are_said(tmp_path: Path) -> None:
    done = run("bench", "resnet_cifar:8", "-o", tmp_path / "b", "--max-batch", "2", "--data", "random:4", *FAST)
    assert done.exit_code == 0 and "the weights are random" in done.stderr
    assert done.stdout.splitlines()[-1].startswith(("Fastest is model.fp32.onnx", "Nothing to deploy: "))


def test_inspect(bundle: Path) -> None:
    report = load(run("inspect", bundle / "model.fp32.onnx", "--json"))
    assert report["operators"]["Conv"] == 19 and report["precisions"] == {"fp32": 20}
    assert sum(layer["macs"] for layer in report["layers"]) == Bundle.open(bundle).manifest.model.macs
    text = run("inspect", bundle / "model.fp32.onnx").stdout
    assert "layer3.2.conv2" in text and "64x64x3x3" in text


def test_the_same_from_python(bundle: Path) -> None:
    import resnet_deploy as rd

    report = rd.bench(bundle, data="digits", batch=2, duration=0.05, threads=1, limit=20)
    assert report.passed and report.results[0].latency_s.p50 > 0
    assert report.decision is not None and report.decision.kind in {"deploy", "none"}
    assert rd.verify(bundle, "digits", limit=10)[0].gate == "pass"
    assert "resnet50" in rd.list_models() and rd.create_model("resnet20", num_classes=7).fc.out_features == 7


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("export", "resnet5", "-o", "b"), "resnet50"),
        (("export", "ResNet-50", "-o", "b"), "did you mean resnet50"),
        (("bench", "resnet51"), "resnet50"),
        (("export", "resnet20"), "give a folder for the bundle of resnet20"),
        (("export", "resnet20", "-o", "b", "--head", "logit"), "unknown head"),
        (("export", "resnet20", "-o", "b", "--head", "topk"), "topk:5"),
        (("export", "resnet20", "-o", "b", "--head", "topk:x"), "not a number"),
        (("export", "resnet20", "-o", "b", "--head", "topk:11"), "more classes than the 10"),
        (("export", "resnet20", "-o", "b", "--l2-normalize"), "for the embedding head"),
        (("export", "resnet20", "-o", "b", "--input", "bgr"), "bgr"),
        (("export", "resnet20", "-o", "b", "--max-batch", "0"), "at least 1"),
        (("export", "resnet20", "-o", "b", "--image-size", "8"), "at least 32"),
        (("export", "resnet20", "-o", "b", "--mean", "1,2"), "three numbers"),
        (("export", "resnet20", "-o", "b", "--std", "0,1,1"), "above 0"),
        (("export", "resnet20", "-o", "b", "--num-classes", "0"), "at least 1"),
        (("export", "resnet20", "-o", "b", "--weights", "nowhere.pth"), "does not exist"),
        (("export", "resnet20", "-o", "b", "--weights", "IMAGENET1K_V1"), "no published weights"),
        (("export", "resnet20", "-o", "b", "--weights", str(DIGITS), "--num-classes", "5"), "--new-head"),
        (("export", "resnet20", "-o", "b", "--weights", str(DIGITS), "--new-head"), "--num-classes N"),
        (("export", "resnet32", "-o", "b", "--weights", str(DIGITS)), "It fits resnet20"),
        (("verify", "nowhere", "--data", "digits"), "there is no bundle"),
        (("verify", "BUNDLE", "--data", "nowhere"), "does not exist"),
        (("verify", "BUNDLE", "--data", "EMPTY"), "has no images"),
        (("verify", "BUNDLE", "--data", "digits", "--gate", "speed=1"), "unknown metric"),
        (("verify", "BUNDLE", "--data", "digits", "--backend", "caffe"), "unknown backend"),
        (("verify", "BUNDLE", "--data", "digits", "--batch", "0"), "at least 1"),
        (("bench", "BUNDLE", "--batch", "0"), "at least 1"),
        (("bench", "BUNDLE", "--batch", "1,x"), "whole number"),
        (("bench", "BUNDLE", "--batch", "64"), "--max-batch 64"),
        (("bench", "BUNDLE", "--duration", "0"), "above 0"),
        (("bench", "BUNDLE", "--head", "topk:3"), "was made otherwise"),
        (("inspect", "nowhere.onnx"), "does not exist"),
        (("inspect", "BUNDLE"), "is a folder"),
        (("inspect", "BUNDLE/weights.safetensors"), "not a valid ONNX file"),
    ],
)
def test_what_cannot_be_meant(args: tuple[str, ...], said: str, bundle: Path, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    names = {"BUNDLE": str(bundle), "EMPTY": str(tmp_path / "empty")}
    for name, path in names.items():
        args = tuple(arg.replace(name, path) for arg in args)
    assert said in fails(2, *args)
    assert not (tmp_path / "b").exists(), "a refused command leaves no folder"


@pytest.mark.parametrize("command", ["verify", "bench"])
def test_edited_files_are_not_run(bundle: Path, command: str) -> None:
    graph = bundle / "model.fp32.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    said = fails(2, command, bundle, "--data", "digits")
    assert "was changed after it was made" in said and f"resnet-deploy export {bundle}" in said
    said = fails(2, "export", "resnet20", "--weights", DIGITS, "--input", "uint8", "--max-batch", "8", "-o", bundle)
    assert "was changed after it was made" in said


def test_another_models_bundle_is_kept_unless_asked(bundle: Path) -> None:
    said = fails(2, "export", "resnet_cifar:8", "-o", bundle)
    assert "the architecture is resnet20 there, resnet_cifar:8 here" in said and "--overwrite" in said
    assert run("verify", bundle, "--data", "random:2").exit_code == 0
    assert run("export", "resnet_cifar:8", "--max-batch", "1", "-o", bundle, "--overwrite").exit_code == 0
    assert Bundle.open(bundle).manifest.model.architecture == "resnet_cifar:8"


def test_a_missing_gpu_is_exit_code_3(bundle: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert "CUDA" in fails(3, "bench", bundle, "--backend", "eager:cuda", *FAST)


def test_a_missing_package_is_exit_code_3_with_its_command(bundle: Path, monkeypatch: Any) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert 'pip install "resnet-deploy[cpu]"' in fails(3, "verify", bundle, "--data", "digits")


NOISY = """
import os, sys
import resnet_deploy as rd
from resnet_deploy.cli import main
from resnet_deploy.models import catalogue
def noisy(known=catalogue.describe_models):
    print("a library prints")
    os.write(1, b"native code prints\\n")
    return known()
catalogue.describe_models = noisy
sys.argv = ["resnet-deploy", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize("arguments", [["models", "--json"], ["models", "--help"]])
def test_what_libraries_print_is_no_part_of_a_result(arguments: list[str]) -> None:
    done = subprocess.run([sys.executable, "-c", NOISY, *arguments], capture_output=True, text=True, check=True)
    assert "prints" not in done.stdout
    if "--json" in arguments:
        assert json.loads(done.stdout)["models"] and "a library prints" in done.stderr and "native code prints" in done.stderr
    else:
        assert done.stdout.startswith("Usage:")
