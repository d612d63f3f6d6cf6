"""Precisions in a bundle: made once, judged on what they were not calibrated on, tuned where plain INT8 fails."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

import resnet_deploy as rd
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.errors import CalibrationError, DataError, TuningError, UsageError
from resnet_deploy.models.checkpoint import read_checkpoint, save
from resnet_deploy.models.registry import architecture
from resnet_deploy.pipeline.lowering_options import LoweringOptions
from tests.helpers.cli import fails, load, run
from tests.helpers.cpu import EXACT_INT8
from tests.helpers.paths import DIGITS
from tests.helpers.shared import exported, once

pytestmark = pytest.mark.slow

CALIBRATED = {"calibration": "digits:train", "calibration_images": 200}
MADE = {"weights": DIGITS, "input": "uint8", "max_batch": 8, **CALIBRATED}
ALL = ("model.fp16.onnx", "model.bf16.onnx", "model.int8.onnx", "model.int8-cpu.onnx", "model.fp8.onnx")
GROUPED, SMALL = "resnet:layers=1-1,groups=32,width_per_group=4", {"image_size": 32, "max_batch": 4}
INT8 = ["openvino:int8", "onnxruntime:int8", "onnxruntime:int8,simulate"] if EXACT_INT8 else ["onnxruntime:int8,simulate"]


def outliers(path: Path, *, blocks: tuple[str, ...] = ("layer2.1", "layer3.1"), by: float = 400.0) -> Path:
    """The trained network with one channel of some blocks out of all proportion: the same function, no good in INT8."""
    found = read_checkpoint(architecture("resnet20"), DIGITS)
    state = dict(found.state)
    for block in blocks:
        for name in (f"{block}.bn1.weight", f"{block}.bn1.bias", f"{block}.conv2.weight"):
            state[name] = state[name].clone()
        state[f"{block}.bn1.weight"][3] *= by
        state[f"{block}.bn1.bias"][3] *= by
        state[f"{block}.conv2.weight"][:, 3] /= by
    save(state, path, found.metadata)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return exported("resnet20", tmp_path_factory.mktemp("lowered") / "bundle", precision="fp32,fp16,bf16,int8,fp8", **MADE)


def spoilt_graph(copy: Path) -> Bundle:
    """That network with its FP32 graph alone."""
    weights = once("outliers.safetensors", outliers)
    return exported("resnet20", copy, weights=weights, input="uint8", max_batch=8)


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    bundle = spoilt_graph(tmp_path_factory.mktemp("spoilt") / "bundle")
    return rd.export(bundle, precision="int8", **CALIBRATED, calibration_method="max")


@pytest.fixture
def copy(made: Bundle, tmp_path: Path) -> Path:
    shutil.copytree(made.path, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.fixture
def spoilt_copy(spoilt: Bundle, tmp_path: Path) -> Path:
    shutil.copytree(spoilt.path, tmp_path / "spoilt")
    return tmp_path / "spoilt"


def times(bundle: Bundle) -> dict[str, int]:
    return {name: (bundle.path / name).stat().st_mtime_ns for name in bundle.manifest.artifacts}


def test_every_precision_is_a_file_with_its_origin(made: Bundle) -> None:
    artifacts = made.manifest.artifacts
    assert set(ALL) < set(artifacts) and artifacts["calibration.json"].images >= 150
    for name in ALL:
        assert artifacts[name].made_from == artifacts["model.fp32.onnx"].sha256
    int8, ranges = artifacts["model.int8.onnx"], artifacts["calibration.json"]
    assert int8.quantized_layers == 19  # all but the classifier
    assert (int8.calibration.method, int8.calibration.key) == (ranges.method, ranges.key)
    assert len(int8.calibration.images) == ranges.images == len(artifacts["model.fp8.onnx"].calibration.images)
    assert artifacts["model.fp16.onnx"].calibration is None


def test_the_same_request_makes_nothing_again(made: Bundle) -> None:
    before = times(made)
    again = rd.export("resnet20", made.path, precision="fp32,fp16,bf16,int8,fp8", **MADE)
    assert times(again) == before
    rd.export("resnet20", made.path, precision="int8", **MADE | {"calibration": None})  # what was calibrated is kept
    assert times(Bundle.open(made.path)) == before


def test_another_option_makes_what_depends_on_it(copy: Path) -> None:
    before = times(Bundle.open(copy))
    after = times(rd.export("resnet20", copy, precision="int8,fp16", keep="layer1.0", **MADE))
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"model.int8.onnx", "model.int8-cpu.onnx", "model.fp16.onnx", "calibration.json"} - {
        name for name in ("calibration.json",) if before[name] == after[name]
    }


def test_every_precision_passes_its_gate(made: Bundle) -> None:
    backends = ["onnxruntime:fp16", "openvino:fp16", "openvino:bf16", *INT8, "onnxruntime:fp8,simulate"]
    for verdict in rd.verify(made, "digits", backend=backends, limit=200, threads=1):
        assert verdict.gate == "pass", (str(verdict.candidate), verdict.failures)
        assert verdict.report.top1_accuracy >= 0.98  # type: ignore[operator]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"precision": "int8"}, ["onnxruntime:int8", "openvino:int8"]),
        ({"precision": ["fp16", "bf16"]}, ["onnxruntime:fp16", "openvino:fp16", "openvino:bf16"]),
        ({"precision": "fp16,int8", "backend": "openvino"}, ["openvino:fp16", "openvino:int8"]),
        ({"precision": "fp16", "backend": ["onnxruntime:int8", "openvino"]}, ["onnxruntime:int8", "openvino:fp16"]),
        ({"backend": "onnxruntime:fp16"}, ["onnxruntime:fp16"]),
        ({}, ["onnxruntime"]),
    ],
)
def test_verify_in_several_precisions(made: Bundle, options: dict[str, Any], expected: list[str]) -> None:
    verdicts = rd.verify(made, "digits", limit=4, threads=1, **options)
    assert [str(verdict.candidate) for verdict in verdicts] == expected


def test_verify_in_a_precision_that_is_not_there(digits_bundle: Bundle, made: Bundle) -> None:
    message = fails(2, "verify", digits_bundle.path, "--data", "random:2", "--precision", "fp32,bf16")
    assert "has no bf16 file" in message and "--precision bf16" in message
    message = fails(2, "verify", made.path, "--data", "random:2", "--precision", "bf16", "--backend", "onnxruntime")
    assert "onnxruntime has no kernels in bf16" in message


def test_nothing_is_judged_on_what_was_calibrated_on(made: Bundle, digits_bundle: Bundle, tmp_path: Path) -> None:
    calibrated = made.manifest.artifacts["calibration.json"].images
    (found,) = rd.verify(made, "digits:train", backend=["onnxruntime:int8"], threads=1)
    assert found.data.calibrated_on >= calibrated and found.report.images == 1197 - found.data.calibrated_on
    (held_out,) = rd.verify(made, "digits", backend=["onnxruntime:int8"], threads=1)
    assert held_out.data.calibrated_on == 0 and held_out.report.images == 600
    shutil.copytree(digits_bundle.path, tmp_path / "seen")
    seen = rd.export(tmp_path / "seen", precision="int8", calibration="random:16", calibration_method="max")
    with pytest.raises(DataError, match="calibrated on all images"):
        rd.verify(seen, "random:16", backend=["onnxruntime:int8"], threads=1)


def test_a_calibration_file_needs_no_data(made: Bundle, digits_bundle: Bundle, tmp_path: Path) -> None:
    shutil.copy(made.path / "calibration.json", tmp_path / "ranges.json")
    shutil.copytree(digits_bundle.path, tmp_path / "b")
    again = rd.export(tmp_path / "b", precision="int8", calibration=tmp_path / "ranges.json", calibration_images=200)
    for name in ("model.int8.onnx", "model.int8-cpu.onnx"):
        assert again.manifest.artifacts[name].sha256 == made.manifest.artifacts[name].sha256


def test_another_models_calibration_file_is_refused(made: Bundle, tmp_path: Path) -> None:
    shutil.copy(made.path / "calibration.json", tmp_path / "ranges.json")
    bundle = exported("resnet20", tmp_path / "b", max_batch=2)
    with pytest.raises(CalibrationError, match="of another model"):
        rd.export(bundle, precision="int8", calibration=tmp_path / "ranges.json")
    assert "model.int8.onnx" not in Bundle.open(tmp_path / "b").manifest.artifacts


def test_bench_measures_every_precision(copy: Path) -> None:
    report = rd.bench(
        copy, data="digits", precision="fp32,int8", backend=["eager", "onnxruntime", "openvino"], batch=2, limit=64,
        duration=0.05, threads=1, gate=["relative-accuracy=0.9"],
    )  # fmt: skip
    assert [(r.backend, r.precision) for r in report.results] == [
        ("eager", "fp32"), ("onnxruntime", "fp32"), ("onnxruntime", "int8"), ("openvino", "fp32"), ("openvino", "int8"),
    ]  # fmt: skip
    assert all(result.gate == "pass" for result in report.results if EXACT_INT8 or result.precision == "fp32")


@pytest.mark.parametrize("backend", INT8)
def test_outlier_channels_fail_the_gate(spoilt: Bundle, backend: str) -> None:
    (found,) = rd.verify(spoilt, "digits", backend=[backend], limit=200, threads=1)
    assert found.gate == "fail" and found.report.top1_accuracy < 0.8  # type: ignore[operator]


def test_a_plot_is_an_svg_file(spoilt: Bundle) -> None:
    with pytest.raises(UsageError, match=r"written as SVG: give a name that ends in .svg, not 's.png'"):
        rd.tune(spoilt, "digits", plot="s.png")


def test_tune_rescues_them_by_keeping_their_blocks(spoilt_copy: Path, tmp_path: Path) -> None:
    done = load(run("tune", spoilt_copy, "--data", "digits", "--limit", "200", "--json", "--plot", tmp_path / "s.svg"))[
        "tuning"
    ]
    assert done["keep"] == ["layer2.1", "layer3.1"] and 0 < done["kept_macs"] < 0.3 * done["macs"]
    drawn = ElementTree.parse(tmp_path / "s.svg").getroot()
    texts = [element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")]
    assert drawn.tag.endswith("svg") and sum("keeps a higher precision" in str(text) for text in texts) == 2
    assert len(done["sensitivities"]) == 10 and {item["block"] for item in done["sensitivities"]} <= set(texts)
    worst = sorted(done["sensitivities"], key=lambda item: -item["error"])[:2]
    assert {item["block"] for item in worst} == {"layer2.1", "layer3.1"}
    bundle = Bundle.open(spoilt_copy)
    assert bundle.manifest.tuning["keep"] == done["keep"]
    for verdict in rd.verify(bundle, "digits", backend=INT8, threads=1):
        assert verdict.gate == "pass", verdict.failures
    kept = bundle.manifest.artifacts["model.int8.onnx"].settings["keep"]
    before = bundle.manifest.artifacts["model.int8.onnx"].sha256
    again = rd.export(  # the mix is a list of layers, and makes the same bytes again
        spoilt_graph(tmp_path / "again"), precision="int8", keep=tuple(kept), calibration=spoilt_copy / "calibration.json",
        calibration_images=200,
    )  # fmt: skip
    assert again.manifest.artifacts["model.int8.onnx"].sha256 == before


@pytest.mark.parametrize("backend", ["openvino:int8", "onnxruntime:int8"])
def test_tune_by_measured_latency(spoilt_copy: Path, backend: str) -> None:
    found = rd.tune(spoilt_copy, "digits", limit=64, backend=backend, threads=1)
    measured = [mix for mix in found.mixes if mix.latency_s is not None]
    assert measured and not found.chosen.failures
    assert found.chosen.latency_s == min(mix.latency_s for mix in measured)  # type: ignore[type-var]


def test_tune_measures_whether_grouped_convolutions_gain(tmp_path: Path) -> None:
    bundle = rd.export(exported(GROUPED, tmp_path / "b", **SMALL), precision="int8", calibration="random:16")
    rd.tune(bundle, "random:24", backend="openvino:int8", limit=8, threads=1, gate=["cosine-mean=0.9"])
    settings = Bundle.open(tmp_path / "b").manifest.artifacts["model.int8.onnx"].settings
    assert settings["grouped"] in {"keep", "quantize"}  # not auto: what was faster


def test_tune_keeps_nothing_where_nothing_fails(copy: Path) -> None:
    found = rd.tune(copy, "digits", limit=64, max_drop=2.0)
    assert found.chosen.keep == () and found.chosen.macs == 0


def test_a_tuned_mix_is_not_undone_by_who_runs_it(spoilt_copy: Path) -> None:
    rd.tune(spoilt_copy, "digits", limit=64)
    mix = Bundle.open(spoilt_copy).manifest.artifacts["model.int8.onnx"].sha256
    rd.bench(spoilt_copy, precision="int8", backend=["openvino"], batch=1, duration=0.01, data="random:4")
    assert Bundle.open(spoilt_copy).manifest.artifacts["model.int8.onnx"].sha256 == mix
    rd.bench(spoilt_copy, precision="int8", other_layers="fp32", backend=["eager"], batch=1, duration=0.01)
    assert Bundle.open(spoilt_copy).manifest.artifacts["model.int8.onnx"].sha256 != mix, "what was asked for is made"


def test_tune_says_when_no_mix_passes(spoilt_copy: Path) -> None:
    with pytest.raises(TuningError, match=r"no mix passes: .*even with nothing quantized"):
        rd.tune(spoilt_copy, "digits", limit=64, gate=["top1-accuracy=1.01"])
    assert "FAILED" not in fails(1, "tune", spoilt_copy, "--data", "digits", "--gate", "cosine-mean=1.5", "--limit", "32")


@pytest.mark.parametrize("options", [{"equalize": True}, {"equalize": True, "correct_bias": True, "clip_weights": True}])
def test_equalization_rescues_them_too(tmp_path: Path, options: dict[str, Any]) -> None:
    bundle = rd.export(spoilt_graph(tmp_path / "b"), precision="int8", **CALIBRATED, **options)
    for verdict in rd.verify(bundle, "digits", backend=INT8, limit=200, threads=1):
        assert verdict.gate == "pass", verdict.failures


def test_the_first_divergent_block_is_named(spoilt: Bundle, made: Bundle) -> None:
    found = rd.compare_layers(spoilt, "digits", backend=["openvino:int8", "onnxruntime:int8"], limit=32)
    assert found.files == ("model.fp32.onnx", "model.int8.onnx", "model.int8-cpu.onnx")
    assert found.first == {"model.fp32.onnx": None, "model.int8.onnx": "layer2.1", "model.int8-cpu.onnx": "layer2.1"}
    assert list(found.blocks)[:2] == ["stem", "layer1.0"] and len(found.blocks) == 10
    assert all(d["model.fp32.onnx"].relative_error < 1e-5 for d in found.blocks.values())
    assert set(rd.compare_layers(made, "digits", backend=["openvino:int8"], limit=32).first.values()) == {None}
    text = run("verify", spoilt.path, "--data", "digits", "--limit", "32", "--backend", "onnxruntime:int8", "--layers").stdout
    assert "model.int8-cpu.onnx differs from eager from layer2.1 on" in text


def test_layers_of_ensembles_and_rearranged_blocks(tmp_path: Path) -> None:
    bundle = rd.export("ensemble:resnet_cifar:8+preact_resnet_cifar:8", tmp_path / "b", max_batch=2, precision="fp16")
    found = rd.compare_layers(bundle, "random:4", backend=["onnxruntime:fp16"])
    assert {"members.0.stem", "members.1.stem", "members.1.layer3.0"} <= set(found.blocks)
    assert all(d["model.fp32.onnx"].relative_error < 1e-5 for d in found.blocks.values())
    assert all(d["model.fp16.onnx"].relative_error < 1e-2 for d in found.blocks.values())


def test_grouped_convolutions_have_a_policy(tmp_path: Path) -> None:
    bundle, counts = exported(GROUPED, tmp_path / "b", **SMALL), {}
    for policy in ("auto", "quantize", "keep"):
        artifacts = rd.export(bundle, precision="int8", grouped=policy, calibration="random:16").manifest.artifacts
        counts[policy] = [artifacts[file].quantized_layers for file in ("model.int8.onnx", "model.int8-cpu.onnx")]
    assert counts == {"auto": [7, 9], "quantize": [9, 9], "keep": [7, 7]}


def test_values_beyond_fp16_name_their_layer(tmp_path: Path) -> None:
    options = MADE | {"weights": outliers(tmp_path / "w.safetensors", blocks=("layer2.1",), by=3e4)}
    with pytest.raises(CalibrationError, match=r"layer2\.1\.relu1 reaches .* use bf16, or leave the layer in FP32"):
        rd.export("resnet20", tmp_path / "b", precision="fp16", **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"precision": "int7"}, "unknown precision 'int7'"),
        ({"precision": ""}, "unknown precision"),
        ({"precision": "int8", "int8_target": "gpu"}, "unknown INT8 target 'gpu'"),
        ({"calibration_images": 0}, "calibration_images must be"),
        ({"other_layers": "bf16"}, "fp16 or fp32"),
        ({"grouped": "never"}, "grouped convolutions"),
    ],
)
def test_options_that_cannot_be_meant(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        LoweringOptions(**options)


def test_what_is_missing_is_said_with_the_way_out(digits_bundle: Bundle) -> None:
    said = fails(2, "verify", digits_bundle.path, "--data", "digits", "--backend", "onnxruntime:int8")
    assert "--precision int8 --calibration DATA" in said
    assert "need images to calibrate on" in fails(2, "tune", digits_bundle.path, "--data", "digits")
    assert "unknown calibration method" in fails(
        2, "tune", digits_bundle.path, "--data", "digits", "--calibration", "digits:train", "--calibration-method", "best"
    )


def test_few_images_are_a_warning(tmp_path: Path) -> None:
    exported("resnet_cifar:8", tmp_path / "b", max_batch=2)
    done = run("export", "resnet_cifar:8", "-o", tmp_path / "b", "--precision", "int8", "--calibration", "random:16")
    assert done.exit_code == 0 and "Warning: calibrated on" in done.stderr
    assert json.loads((tmp_path / "b" / "calibration.json").read_text())["warnings"]
