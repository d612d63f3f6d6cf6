"""What a user does to a bundle, and must not lose work by: exports that add, that differ, that fail, that mend."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

import resnet_deploy as rd
from resnet_deploy.bundle.manifest import GraphFile
from resnet_deploy.bundle.names import CALIBRATION, FP32, MANIFEST, WEIGHTS
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.errors import BundleError, CalibrationError, CheckpointError, IntegrityError, TuningError, UsageError
from tests.helpers.cli import fails, load, run
from tests.helpers.paths import DIGITS
from tests.helpers.shared import exported

pytestmark = pytest.mark.slow

INT8 = {"precision": "int8", "int8_target": "tensorrt", "calibration": "digits:train", "calibration_images": 24}


@pytest.fixture(scope="module")
def quantized(digits_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("quantized") / "bundle"
    shutil.copytree(digits_bundle.path, folder)
    return rd.export(folder, **INT8, calibration_method="max")


@pytest.fixture
def bundle(quantized: Bundle, tmp_path: Path) -> Bundle:
    shutil.copytree(quantized.path, tmp_path / "bundle")
    return Bundle.open(tmp_path / "bundle")


def content(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir() if not file.name.startswith(".")}


# --- A: what is asked for is added, what differs is refused ---


def test_the_advice_is_a_command_that_adds(bundle: Bundle) -> None:
    before = content(bundle.path)
    said = fails(2, "verify", bundle.path, "--data", "digits", "--backend", "onnxruntime:fp16")
    advice = said.split("`")[1].split()
    assert advice[:2] == ["resnet-deploy", "export"] and "resnet20" not in advice
    run(*advice[1:])
    after = content(bundle.path)
    assert set(after) - set(before) == {"model.fp16.onnx"}
    assert all(after[name] == before[name] for name in before if name != MANIFEST)


def test_what_is_not_said_is_taken_from_the_bundle(bundle: Bundle) -> None:
    before = content(bundle.path)
    rd.export("resnet20", bundle.path)
    rd.export(bundle)
    rd.export("resnet20", bundle.path, weights=DIGITS, input="uint8", max_batch=8, resize=32, image_size=32)
    assert content(bundle.path) == before


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("resnet20", {"resize": 48}, "--resize is 32 there, 48 here"),
        ("resnet20", {"image_size": 64}, "--image-size is 32 there, 64 here"),
        ("resnet20", {"max_batch": 16}, "--max-batch is 8 there, 16 here"),
        ("resnet20", {"head": "topk:3"}, "--head is logits there, topk:3 here"),
        ("resnet20", {"input": "float", "num_classes": 7}, "--num-classes is 10 there, 7 here"),
        ("resnet20", {"mean": (0.5, 0.5, 0.5)}, "--mean is "),
        ("resnet18", {}, "the architecture is resnet20 there, resnet18 here"),
    ],
)
def test_a_request_that_differs_is_refused(bundle: Bundle, name: str, options: dict[str, object], said: str) -> None:
    before = content(bundle.path)
    with pytest.raises(BundleError, match="made otherwise") as caught:
        rd.export(name, bundle.path, **options)
    assert said in str(caught.value) and "loses weights.safetensors" in str(caught.value)
    assert "model.int8.onnx" in str(caught.value) and "--overwrite" in str(caught.value)
    assert content(bundle.path) == before


def test_other_weights_are_refused_too(bundle: Bundle) -> None:
    other = exported("resnet20", max_batch=2).path / WEIGHTS
    with pytest.raises(BundleError, match=r"--weights is \w+ there, \w+ here"):
        rd.export("resnet20", bundle.path, weights=other)


def test_overwrite_makes_the_bundle_new(bundle: Bundle) -> None:
    new = rd.export("resnet20", bundle.path, overwrite=True, max_batch=2)
    assert set(new.manifest.artifacts) == {WEIGHTS, FP32} and new.manifest.model.weights.source == "random"
    with pytest.raises(UsageError, match="give its architecture"):
        rd.export(bundle.path, overwrite=True)


def test_a_name_needs_a_folder_and_a_bundle_stays_where_it_is(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give a folder"):
        rd.export("resnet20")
    with pytest.raises(UsageError, match="cannot be exported to"):
        rd.export(bundle, tmp_path / "elsewhere")
    with pytest.raises(TypeError, match="unexpected keyword argument 'foo'"):
        rd.export(bundle, foo=1)


# --- B: a failed tune leaves the bundle as it was ---


@pytest.mark.parametrize("precision", ["int8", "fp8"])
def test_a_failed_tune_changes_nothing(bundle: Bundle, precision: str) -> None:
    before = content(bundle.path)
    with pytest.raises(TuningError, match="no mix passes"):
        rd.tune(
            bundle, "digits", calibration="digits:train", calibration_images=40, limit=8, gate=["top1-accuracy=1.01"],
            precision=precision,
        )  # fmt: skip
    assert content(bundle.path) == before
    assert rd.verify(bundle, "digits", limit=8, backend=["onnxruntime"])[0].gate == "pass"


def test_a_plot_that_cannot_be_written_leaves_the_bundle_as_it_was(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    before = content(bundle.path)
    with pytest.raises(BundleError, match="cannot write"):
        rd.tune(bundle, "digits", limit=8, plot=tmp_path / "file" / "plot.svg", gate=["cosine-mean=0.5"])
    assert content(bundle.path) == before


# --- C: what can be made again is made again ---


@pytest.mark.parametrize("gone", [[WEIGHTS], [FP32], ["model.int8.onnx"], [WEIGHTS, FP32, "model.int8.onnx"]])
def test_files_that_were_removed_are_made_again(bundle: Bundle, gone: list[str]) -> None:
    before = {name: entry.sha256 for name, entry in bundle.manifest.artifacts.items()}
    for name in gone:
        (bundle.path / name).unlink()
    again = rd.export(bundle.path)
    assert {name: entry.sha256 for name, entry in again.manifest.artifacts.items()} == before
    for name in before:
        again.artifact(name)


def test_verify_makes_what_it_needs_and_nothing_more(bundle: Bundle) -> None:
    for name in (FP32, CALIBRATION):
        (bundle.path / name).unlink()
    assert rd.verify(bundle.path, "digits", limit=8)[0].gate == "pass"
    assert (bundle.path / FP32).exists() and not (bundle.path / CALIBRATION).exists()


def test_what_cannot_be_made_again_names_the_command_that_made_it(bundle: Bundle) -> None:
    for name in ("model.int8.onnx", CALIBRATION):
        (bundle.path / name).unlink()
    with pytest.raises(IntegrityError, match=r"model\.int8\.onnx is gone, and cannot be made again .*--calibration DATA.*`"):
        rd.export(bundle.path)
    assert rd.verify(bundle.path, "digits", limit=8)[0].gate == "pass", "what does not need it goes on"
    rd.export(bundle.path, **INT8, calibration_method="max")
    assert (bundle.path / "model.int8.onnx").exists()


def test_weights_are_made_again_from_the_checkpoint_alone_that_they_are_of(tmp_path: Path) -> None:
    checkpoint = tmp_path / "w.safetensors"
    shutil.copy(DIGITS, checkpoint)
    bundle = rd.export("resnet20", tmp_path / "b", weights=checkpoint, max_batch=2)
    (bundle.path / WEIGHTS).unlink()
    checkpoint.write_bytes((tmp_path / "b" / FP32).read_bytes())
    with pytest.raises(IntegrityError, match="is not what it was"):
        rd.export(bundle.path)
    shutil.copy(DIGITS, checkpoint)
    rd.export(bundle.path).artifact(WEIGHTS)


def test_a_file_that_was_changed_is_its_users(bundle: Bundle) -> None:
    (bundle.path / "model.int8.onnx").write_bytes(b"mine")
    with pytest.raises(IntegrityError, match=r"was changed after it was made.*Remove it"):
        rd.export(bundle.path, precision="int8", int8_target="tensorrt")
    assert (bundle.path / "model.int8.onnx").read_bytes() == b"mine"
    assert rd.verify(bundle.path, "digits", limit=8)[0].gate == "pass"


# --- each file has a calibration of its own ---


def test_a_verdict_leaves_out_what_its_own_candidate_has_seen(bundle: Bundle) -> None:
    int8 = bundle.manifest.files(GraphFile)["model.int8.onnx"].calibration
    rd.export(bundle, precision="fp8", calibration="digits", calibration_images=24, calibration_method="max")
    files = bundle.manifest.files(GraphFile)
    assert files["model.int8.onnx"].calibration == int8 != files["model.fp8.onnx"].calibration
    backends = ["onnxruntime", "onnxruntime:int8,simulate", "onnxruntime:fp8,simulate"]
    counts = {
        str(verdict.candidate): (verdict.data.images, verdict.data.calibrated_on)
        for verdict in rd.verify(bundle, "digits", backend=backends, threads=1)
    }
    seen = len(files["model.fp8.onnx"].calibration.images)  # type: ignore[union-attr]
    assert seen == 88, "with the images that judge the methods"
    assert counts == {backends[0]: (600, 0), backends[1]: (600, 0), backends[2]: (600 - seen, seen)}


def test_values_beyond_fp16_are_found_where_the_file_is_there_already(bundle: Bundle, tmp_path: Path) -> None:
    rd.export(bundle, precision="fp16")
    ranges = tmp_path / "ranges.json"
    text = (bundle.path / CALIBRATION).read_text()
    first = text.index('"high": ')
    ranges.write_text(text[:first] + '"high": 70000.0' + text[text.index(",", first) :])
    with pytest.raises(CalibrationError, match=r"FP16 ends at 65,504|ranges"):
        rd.export(bundle, precision="fp16", calibration=ranges)


def test_a_calibration_that_was_computed_is_kept(bundle: Bundle) -> None:
    rd.export(bundle, precision="fp16")
    rd.export(bundle, precision="fp16", calibration="digits:train", calibration_images=32, calibration_method="max")
    assert "digits:train (96 of 1197)" in bundle.manifest.files(type(bundle.entry(CALIBRATION)))[CALIBRATION].data  # type: ignore[attr-defined]


def test_a_network_or_a_state_dict_of_the_program(tmp_path: Path) -> None:
    network = rd.create_model("resnet_cifar:8", num_classes=7)
    saved = tmp_path / "saved.pth"
    torch.save(network.state_dict(), saved)
    graphs = []
    for name, architecture, options in (
        ("file", "resnet_cifar:8", {"weights": saved}),
        ("network", network, {}),
        ("dict", "resnet_cifar:8", {"weights": network.state_dict()}),
    ):
        made = rd.export(architecture, tmp_path / name, max_batch=2, **options)
        graphs.append(made.artifact(FP32).read_bytes())
        assert made.manifest.model.num_classes == 7
    assert graphs[0] == graphs[1] == graphs[2]
    assert made.manifest.model.weights.source == "a state dict in memory"
    rd.export(network, tmp_path / "dict", precision="fp16")
    with pytest.raises(BundleError, match="weights is"):
        rd.export(rd.create_model("resnet_cifar:8", num_classes=7, weights=doubled(network)), tmp_path / "dict")
    with pytest.raises(UsageError, match=r"Linear is none of the architectures' networks; .*state_dict\(\)"):
        rd.export(torch.nn.Linear(2, 2), tmp_path / "linear")
    with pytest.raises(UsageError, match="has its own weights"):
        rd.export(network, tmp_path / "both", weights=saved)
    with pytest.raises(CheckpointError, match="epoch of the state dict is no tensor"):
        rd.create_model("resnet_cifar:8", weights={"epoch": 3})


def doubled(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor * 2 for name, tensor in network.state_dict().items()}


# --- tune ---


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8,fp8"])
def test_tune_is_of_one_quantized_precision(bundle: Bundle, precision: str) -> None:
    with pytest.raises(UsageError, match="tune takes one precision, int8 or fp8"):
        rd.tune(bundle, "digits", precision=precision)
    assert bundle.manifest.tuning is None


def test_fp8_is_judged_as_fp8(bundle: Bundle) -> None:
    rd.tune(bundle, "digits", precision="fp8", limit=16)
    files = Bundle.open(bundle.path).manifest.tuning["files"]  # type: ignore[index]
    assert list(files) == ["model.fp8.onnx"] and not files["model.fp8.onnx"]["failures"]
    with pytest.raises(UsageError, match="give a backend in fp8"):
        rd.tune(bundle, "digits", precision="fp8", backend="openvino:int8")


def test_corrections_are_judged_as_they_are_written(bundle: Bundle) -> None:
    rd.tune(bundle, "digits", limit=16, int8_target="tensorrt", correct_bias=True)
    tuning = Bundle.open(bundle.path).manifest.tuning
    assert tuning is not None and list(tuning["files"]) == ["model.int8.onnx"]
    assert tuning["files"]["model.int8.onnx"]["report"] != tuning["chosen"]["report"], "it is another file than the mix"
    rd.tune(bundle, "digits", limit=16, int8_target="tensorrt", correct_bias=True)
    again = Bundle.open(bundle.path).manifest.tuning
    assert again is not None and again["files"] == tuning["files"], "files that stay as they are, are judged all the same"


# --- bench ---


def test_bench_measures_all_that_the_bundle_holds(bundle: Bundle) -> None:
    report = load(run("bench", bundle.path, "--duration", "0.02", "--batch", "1", "--threads", "1", "--limit", "8", "--json"))
    rows = {(row["backend"], row["precision"]) for row in report["results"]}
    assert rows == {("eager", "fp32"), ("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "int8")}


def test_default_images_are_never_those_of_a_calibration(digits_bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(digits_bundle.path, tmp_path / "b")
    rd.export(tmp_path / "b", precision="int8", int8_target="tensorrt", calibration="random:128", calibration_method="max")
    report = rd.bench(tmp_path / "b", batch=1, duration=0.02, backend=["openvino"], gate=["cosine-mean=0"])
    assert [row.precision for row in report.results] == ["fp32", "int8"]
    assert {row.parity["images"] for row in report.results} == {32}


@pytest.mark.parametrize("target", [str, Bundle.open])
def test_options_are_refused_alike_for_a_bundle_and_its_folder(bundle: Bundle, target) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(TypeError, match="unexpected keyword argument 'foo'"):
        rd.bench(target(str(bundle.path)), foo=1)
    with pytest.raises(CheckpointError, match=r"nope\.pth"):
        rd.bench(target(str(bundle.path)), weights="nope.pth")
    report = rd.bench(target(str(bundle.path)), precision="fp16", batch=1, duration=0.02, backend=["onnxruntime"])
    assert [row.precision for row in report.results] == ["fp16"]
