"""calibration.json: what was edited is seen, what cannot be is refused with its field, equal requests give equal bytes."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import resnet_deploy as rd
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.data.sources import open_data
from resnet_deploy.errors import CalibrationError, UsageError
from resnet_deploy.graph.graph import Graph
from resnet_deploy.precision.calibrate import Calibration, Observer, image_digest, observe, symmetric_scale
from resnet_deploy.specs import InputFormat, Preprocessing, check_calibration_method
from tests.helpers.paths import DIGITS
from tests.helpers.precision_graphs import BLOCKS, IMAGES, graph_of, observed
from tests.helpers.shared import exported

pytestmark = pytest.mark.slow

NAME = BLOCKS["padded shortcut"]
Document = dict[str, Any]
Edit = Callable[[Document], object]


def document(folder: Path) -> Document:
    observed(NAME).calibration("entropy", "some images").save(folder / "c.json")
    content: Document = json.loads((folder / "c.json").read_bytes())
    return content


def edited(folder: Path, edit: Edit) -> Path:
    content = document(folder)
    edit(content)
    (folder / "c.json").write_text(json.dumps(content))  # NaN and Infinity as Python writes them
    return folder / "c.json"


REFUSED: dict[str, tuple[Edit, str]] = {
    "NaN": (lambda c: c["tensors"]["relu"].update(high=math.nan), "not JSON"),
    "infinite": (lambda c: c["tensors"]["relu"].update(high=math.inf), "not JSON"),
    "beyond float32": (lambda c: c["tensors"]["relu"].update(high=1e39), r"tensors\.relu\.high"),
    "upside down": (lambda c: c["tensors"]["relu"].update(low=9e4), r"tensors\.relu: low 90000 is above high"),
    "negative": (lambda c: c["tensors"]["relu"].update(int8=-1.0), r"tensors\.relu\.int8: Expected float >= 0"),
    "zero": (lambda c: c["tensors"]["relu"].update(int8=0), r"tensors\.relu: int8 is 0, which only a tensor that was always"),
    "tiny": (lambda c: c["tensors"]["relu"].update(uint8=1e-45), r"tensors\.relu: uint8 1e-45 is too small"),
    "all zero": (lambda c: c["tensors"]["relu"].update(low=0, high=0, int8=0, uint8=0), r"means\.relu: .* outside the range"),
    "above": (lambda c: c["tensors"]["relu"].update(uint8=1e9), r"tensors\.relu: uint8 1e\+09 is above the largest magnitude"),
    "text": (lambda c: c["tensors"]["relu"].update(low="0"), r"tensors\.relu\.low: Expected float, got str"),
    "none": (lambda c: c["tensors"].update(relu=None), r"tensors\.relu: Expected object, got null"),
    "part of a range": (lambda c: c["tensors"]["relu"].pop("uint8"), r"tensors\.relu: .*missing required field uint8"),
    "no tensors": (lambda c: c.update(tensors={}), "tensors: Expected object of length >= 1"),
    "a list": (lambda c: c.update(tensors=[]), "tensors: Expected object, got array"),
    "no mean": (lambda c: c["means"].update(relu=[]), r"means\.relu: Expected array of length >= 1"),
    "far mean": (lambda c: c["means"]["relu"].__setitem__(0, 1e6), r"means\.relu: 1e\+06 is outside the range"),
    "mean of nothing": (lambda c: c["means"].update(other=[0.0]), r"means\.other: there is no range"),
    "method": (lambda c: c.update(method="guess"), "method: unknown calibration method 'guess'"),
    "percentile": (lambda c: c.update(method="percentile:101"), "method: unknown calibration method 'percentile:101'"),
    "number": (lambda c: c.update(method=3), "method: Expected str, got int"),
    "graph": (lambda c: c.update(graph="abc"), "graph: Expected str matching regex"),
    "digest": (lambda c: c["images"].__setitem__(2, "x" * 16), r"images\[2\]: Expected str matching regex"),
    "longer digest": (lambda c: c["images"].__setitem__(2, "a" * 64), r"images\[2\]: Expected str matching regex"),
    "no images": (lambda c: c.update(images=[]), "images: Expected array of length >= 1"),
    "terminal codes": (lambda c: c.update(data="\x1b[2Jx"), "data: it has control characters"),
    "warnings": (lambda c: c.update(warnings=["a\nb"]), "warnings: it has control characters"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_no_calibration_has_is_refused_with_its_field(tmp_path: Path, case: str) -> None:
    edit, message = REFUSED[case]
    with pytest.raises(CalibrationError, match=message) as caught:
        Calibration.load(edited(tmp_path, edit))
    assert "Calibrate again with images" in str(caught.value)


@pytest.mark.parametrize("field", ["version", "method", "graph", "data", "warnings", "tensors", "means", "images"])
def test_a_missing_field_is_named(tmp_path: Path, field: str) -> None:
    with pytest.raises(CalibrationError, match=f"missing required field {field}"):
        Calibration.load(edited(tmp_path, lambda content: content.pop(field)))


def test_files_that_are_none(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    deep = tmp_path / "deep.json"
    deep.write_text("[" * 100_000)
    for path, message in (
        (tmp_path, "it is a folder"), (tmp_path / "pipe", "it is a pipe"), (Path("/dev/zero"), "it is a device"),
        (tmp_path / "absent", "No such file"), (deep, "not JSON|nested too deeply|Expected object"),
    ):  # fmt: skip
        with pytest.raises(CalibrationError, match=message):
            Calibration.load(path)


def test_a_sparse_file_of_a_terabyte_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "c.json").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(CalibrationError, match="more than the 268,435,456 that are read"):
        Calibration.load(tmp_path / "c.json")


@pytest.mark.parametrize(
    "edit",
    [
        lambda c: c["tensors"]["relu"].update(int8=c["tensors"]["relu"]["int8"] / 2),
        lambda c: c["tensors"]["relu"].update(high=c["tensors"]["relu"]["high"] * 2),
        lambda c: c["tensors"]["relu"].update(low=-0.5),
        lambda c: c["means"]["relu"].__setitem__(0, 0.0),
        lambda c: c["images"].__setitem__(0, "0" * 16),
        lambda c: c.update(method="max"),
        lambda c: c.update(data="others"),
        lambda c: c.update(graph="0" * 64),
    ],
)
def test_whatever_determines_a_quantized_graph_is_in_the_key(tmp_path: Path, edit: Edit) -> None:
    before = observed(NAME).calibration("entropy", "some images")
    document(tmp_path)
    assert Calibration.load(tmp_path / "c.json").key == before.key
    assert Calibration.load(edited(tmp_path, edit)).key != before.key


def test_warnings_are_no_part_of_the_key() -> None:
    calibration = observed(NAME).calibration("max")
    assert replace(calibration, warnings=()).key == calibration.key and len(calibration.key) == 16


def test_tensors_that_are_missing_or_of_no_graph_are_named() -> None:
    calibration, graph = observed(NAME).calibration("max"), graph_of(NAME)
    ranges = {name: item for name, item in calibration.ranges.items() if name != "relu"}
    with pytest.raises(CalibrationError, match="it has no range for 'relu'"):
        replace(calibration, ranges=ranges).require(graph, calibration.ranges)
    with pytest.raises(CalibrationError, match="it names 'rely', which the graph does not have"):
        replace(calibration, ranges=calibration.ranges | {"rely": calibration.ranges["relu"]}).require(graph, ())
    with pytest.raises(CalibrationError, match="'relu' has 16 channels, and means of 3"):
        replace(calibration, means=calibration.means | {"relu": [0.0] * 3}).require(graph, ())


def test_a_tensor_that_is_always_zero_keeps_its_range_of_zero(tmp_path: Path) -> None:
    graph = graph_of(NAME)
    for name in ("layer1.0.conv1.weight", "layer1.0.conv1.bias"):
        graph.add_constant(name, np.zeros_like(graph.value(name)))
    calibration = observe(graph, lambda _: iter([IMAGES])).calibration("mse")
    calibration.save(tmp_path / "c.json")
    loaded = Calibration.load(tmp_path / "c.json")
    assert vars(loaded.ranges["layer1.0.relu1"]) == {"low": 0.0, "high": 0.0, "int8": 0.0, "uint8": 0.0}
    assert any("always zero" in text for text in loaded.warnings) and loaded == calibration


def test_names_that_a_terminal_or_json_cannot_take_are_escaped(tmp_path: Path) -> None:
    calibration = observed(NAME).calibration("max", "\x1b[2J folder\udcff\n")
    calibration.save(tmp_path / "c.json")
    assert Calibration.load(tmp_path / "c.json").data == r"\x1b[2J folder\udcff\n"


@pytest.mark.parametrize(
    "method", ["percentile:0", "percentile:nan", "percentile: 5", "percentile:1e1", "percentile", "Max", ""]
)
def test_methods_that_do_not_exist(method: str) -> None:
    with pytest.raises(UsageError, match="unknown calibration method"):
        check_calibration_method(method)
    with pytest.raises(UsageError, match="unknown calibration method"):
        observed(NAME).ranges(method)


def test_the_scale_of_what_fp16_cannot_hold_is_finite() -> None:
    assert symmetric_scale(1e30, 127) == pytest.approx(1e30 / 127)
    assert math.isfinite(symmetric_scale(65504.0 * 127, 127))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The digits network, and photographs of 64 handwritten digits as files."""
    from PIL import Image
    from sklearn.datasets import load_digits

    folder = tmp_path_factory.mktemp("digits")
    (folder / "images").mkdir()
    for number, image in enumerate(load_digits().images[:64]):
        Image.fromarray((image * 15).astype(np.uint8)).convert("RGB").resize((40, 40)).save(folder / f"images/{number:03}.png")
    return exported("resnet20", weights=DIGITS, max_batch=2).artifact("model.fp32.onnx"), folder / "images"


def test_equal_requests_give_equal_bytes_whatever_the_threads_and_batches(
    digits: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, folder = digits
    files = set()
    for threads, cores, batch in ((1, 1, 1), (2, 2, 7), (3, 8, 16), (8, 3, 64), (None, 2, 5)):
        monkeypatch.setattr(os, "cpu_count", lambda cores=cores: cores)  # of decoding's workers, and of threads=None
        dataset = open_data(
            folder, preprocessing=Preprocessing(resize=32, crop=32), input_format=InputFormat.FLOAT, num_classes=10
        )
        observer = Observer(Graph.read(path), threads=threads)
        for part in dataset.batches(batch):
            observer.add(part.images)
        for method in ("entropy", "mse", "percentile:99.99"):
            observer.calibration(method, "digits").save(tmp_path / method.partition(":")[0])
        files.add(tuple((tmp_path / name).read_bytes() for name in ("entropy", "mse", "percentile")))
    assert len(files) == 1


@pytest.mark.parametrize("method", ["auto", "max"])
def test_every_image_that_was_given_counts_as_seen_and_twice_gives_the_same_file(
    digits: tuple[Path, Path], tmp_path: Path, method: str
) -> None:
    """Those that `auto` judged its methods on as well."""
    bundles = [
        rd.export(
            exported("resnet20", tmp_path / name, weights=DIGITS, max_batch=2), precision=["int8"], calibration=digits[1],
            calibration_method=method,
        )
        for name in ("first", "second")
    ]  # fmt: skip
    files = [bundle.artifact("calibration.json") for bundle in bundles]
    assert files[0].read_bytes() == files[1].read_bytes()
    images = np.concatenate([part.images for part in OpenedBundle(bundles[0]).data(digits[1]).batches(64)])
    assert sorted(Calibration.load(files[0]).images) == sorted(map(image_digest, images)) and len(images) == 64
