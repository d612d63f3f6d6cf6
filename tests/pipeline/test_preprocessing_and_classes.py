"""What the model sees and what its classes are called: said, kept, and doubted where the accuracy speaks against it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import resnet_deploy as rd
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.errors import DataError
from tests.helpers.cli import run
from tests.helpers.paths import DIGITS
from tests.helpers.shared import exported

pytestmark = pytest.mark.slow

FAST = {"batch": 1, "duration": 0.02, "backend": "eager"}


def folder_of(path: Path, classes: tuple[str, ...]) -> Path:
    for number, name in enumerate(classes):
        (path / name).mkdir(parents=True)
        Image.fromarray(np.full((40, 40, 3), 60 * number, np.uint8)).save(path / name / "a.png")
    return path


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits' network as a training script saves it: weights and accuracy, and not a word of its preprocessing."""
    path = tmp_path_factory.mktemp("trained") / "best.pth"
    torch.save({"state_dict": load_file(DIGITS), "best_acc1": 99.5}, path)
    return path


def test_where_each_part_is_from(digits_bundle: Bundle, checkpoint: Path, tmp_path: Path) -> None:
    names = ("resize", "crop", "mean", "std", "interpolation")
    known = digits_bundle.manifest.model.preprocessing_source
    assert [known[name] for name in names] == ["checkpoint"] * 4 + ["assumed"]
    done = run("export", "resnet20", "--weights", checkpoint, "--std", "0.3,0.3,0.3", "--max-batch", "2", "-o", tmp_path / "b")
    assert "resize 32 (assumed); bilinear (assumed); crop 32 (assumed)" in done.stdout and "std 0.3 (option)" in done.stdout
    done = run("export", "resnet_cifar:8", "--image-size", "64", "--max-batch", "2", "-o", tmp_path / "larger")
    assert "resize 64 (assumed)" in done.stdout and "crop 64 (option)" in done.stdout
    for command in (
        ("verify", "--data", "random:2"),
        ("bench", "--duration", "0.02", "--batch", "1", "--threads", "1", "--backend", "eager"),
    ):
        assert "pixels resize 32 (assumed)" in run(command[0], tmp_path / "b", *command[1:]).stdout


def test_an_accuracy_far_below_the_training_s_is_a_warning(checkpoint: Path, digits_bundle: Bundle, tmp_path: Path) -> None:
    wrong = rd.export(
        "resnet20", tmp_path / "wrong", weights=checkpoint, mean=(0.9, 0.9, 0.9), std=(0.05, 0.05, 0.05), max_batch=8
    )
    assert wrong.manifest.model.weights.top1_accuracy == pytest.approx(0.995)
    (verdict,) = rd.verify(wrong, "digits", limit=200)
    (warning,) = verdict.warnings
    assert "the checkpoint says 99.5%" in warning and "is the preprocessing that of the training" in warning
    assert any("the checkpoint says 99.5%" in text for text in rd.bench(wrong, data="digits", limit=200, **FAST).warnings)
    right = rd.export(
        "resnet20", tmp_path / "right", weights=checkpoint, mean=digits_bundle.manifest.model.preprocessing.mean,
        std=digits_bundle.manifest.model.preprocessing.std, max_batch=8,
    )  # fmt: skip
    assert rd.verify(right, "digits", limit=200)[0].warnings == ()


def test_the_training_s_log_speaks_where_the_checkpoint_does_not(tmp_path: Path) -> None:
    torch.save(load_file(DIGITS), tmp_path / "model_best.pth.tar")
    (tmp_path / "summary.csv").write_text("epoch,train_loss,eval_loss,eval_top1\n0,1.0,1.0,71.5\n1,0.5,nan,98.25\n2,0.4,1.0,\n")
    bundle = rd.export("resnet20", tmp_path / "b", weights=tmp_path / "model_best.pth.tar", max_batch=2)
    weights = bundle.manifest.model.weights
    assert (weights.top1_accuracy, weights.reported_by) == (pytest.approx(0.9825), "the training's log")


def test_the_first_labelled_data_names_the_classes(tmp_path: Path) -> None:
    bundle = exported("resnet20", tmp_path / "b", num_classes=3, max_batch=2)
    data = folder_of(tmp_path / "val", ("cat", "dog", "owl"))
    rd.verify(bundle, data)
    assert Bundle.open(tmp_path / "b").manifest.model.class_names == ("cat", "dog", "owl")
    part = folder_of(tmp_path / "part", ("dog", "owl"))
    rd.verify(bundle, part)
    labels = rd.write_triton(bundle, tmp_path / "repository", name="m").path / "m" / "labels.txt"
    assert labels.read_text().split() == ["cat", "dog", "owl"]
    with pytest.raises(DataError, match="rat is no class of the model"):
        rd.verify(bundle, folder_of(tmp_path / "other", ("cat", "rat")))


def test_two_of_three_folders_are_not_relabelled(tmp_path: Path) -> None:
    bundle = exported("resnet20", tmp_path / "b", num_classes=3, max_batch=2)
    with pytest.raises(DataError, match="2 class folders"):
        rd.verify(bundle, folder_of(tmp_path / "part", ("dog", "owl")))
    split = tmp_path / "data"
    for part in ("train", "val"):
        folder_of(split / part, ("cat", "dog", "owl"))
    with pytest.raises(DataError, match="val"):
        rd.verify(bundle, split)


def test_a_calibration_s_folders_name_the_classes_too(tmp_path: Path) -> None:
    data = folder_of(tmp_path / "train", ("cat", "dog", "owl"))
    options = {"precision": "int8", "int8_target": "tensorrt", "calibration_method": "max"}
    bundle = exported("resnet20", tmp_path / "b", num_classes=3, max_batch=2)
    bundle = rd.export(bundle, calibration=data, **options)
    assert bundle.manifest.model.class_names == ("cat", "dog", "owl")
    assert rd.export("resnet20", tmp_path / "b", num_classes=3).manifest == Bundle.open(tmp_path / "b").manifest
