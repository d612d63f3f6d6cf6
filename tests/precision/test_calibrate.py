"""Calibration: the same whatever the batches, kept in a small file, and loud about data that cannot be meant."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from resnet_deploy.errors import CalibrationError, GraphError
from resnet_deploy.precision import Calibration, Graph, observe
from resnet_deploy.precision.auto import best_method, relative_error
from resnet_deploy.precision.calibrate import Observer, tensors_of
from resnet_deploy.precision.histogram import METHODS
from resnet_deploy.precision.placement import Target, place
from tests.helpers.precision_graphs import BLOCKS, IMAGES, graph_of, observed

pytestmark = pytest.mark.slow

NAME = BLOCKS["padded shortcut"]


def seen(images: NDArray[np.float32], batch: int) -> Observer:
    return observe(graph_of(NAME), lambda _: (images[start : start + batch] for start in range(0, len(images), batch)))


@pytest.mark.parametrize("batch", [1, 5, 24])
def test_batches_and_order_make_no_difference(batch: int) -> None:
    whole, parted = seen(IMAGES, 8), seen(IMAGES[::-1].copy(), batch)
    for method in METHODS:
        expected, found = whole.calibration(method), parted.calibration(method)
        for name, entry in expected.ranges.items():
            other = found.ranges[name]
            np.testing.assert_allclose(
                [other.low, other.high, other.int8, other.uint8], [entry.low, entry.high, entry.int8, entry.uint8],
                rtol=1e-5, atol=1e-6,
            )  # fmt: skip
        np.testing.assert_allclose(found.means["relu"], expected.means["relu"], rtol=1e-5, atol=1e-7)


def test_one_grey_image_first_changes_nothing_but_itself() -> None:
    grey = np.full((1, *IMAGES.shape[1:]), 0.1, np.float32)
    first, last = seen(np.concatenate([grey, IMAGES]), 4), seen(np.concatenate([IMAGES, grey]), 4)
    for method in METHODS:
        for name, entry in first.ranges(method).items():
            assert last.ranges(method)[name].int8 == pytest.approx(entry.int8, rel=1e-5)


def test_memory_does_not_grow_with_the_images() -> None:
    few, many = seen(IMAGES[:4], 4), seen(np.concatenate([IMAGES] * 4), 4)
    sizes = [sum(histogram.counts.nbytes for histogram in observer.histograms.values()) for observer in (few, many)]
    assert sizes[0] == sizes[1]


def test_every_tensor_of_every_target_is_observed() -> None:
    for name in BLOCKS.values():
        graph = graph_of(name)
        wanted = {tensor for target in Target for tensor in place(graph, target, head=True).activations}
        assert wanted <= set(tensors_of(graph))


def test_the_input_keeps_its_whole_range() -> None:
    observer = observed(NAME)
    for method in METHODS:
        entry = observer.ranges(method)["input"]
        assert entry.int8 == pytest.approx(observer.histograms["input"].largest, rel=1e-6)


def test_a_file_reads_back(tmp_path: Path) -> None:
    before = observed(NAME).calibration("entropy", "some images")
    before.save(tmp_path / "c.json")
    after = Calibration.load(tmp_path / "c.json")
    assert (after.method, after.graph, after.data, after.images) == ("entropy", before.graph, "some images", before.images)
    for name, entry in before.ranges.items():
        assert vars(after.ranges[name]) == pytest.approx(vars(entry), rel=1e-6)
    np.testing.assert_allclose(after.means["relu"], before.means["relu"], rtol=1e-4)
    lines = (tmp_path / "c.json").read_text().splitlines()
    assert sum('"int8"' in line for line in lines) == len(before.ranges)  # a line a tensor
    after.require(graph_of(NAME), after.ranges)


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"version": 1}', "not json"])
def test_files_that_are_no_calibration(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.json").write_text(text)
    with pytest.raises(CalibrationError, match="is not a calibration file"):
        Calibration.load(tmp_path / "c.json")


def test_a_file_of_a_later_version(tmp_path: Path) -> None:
    observed(NAME).calibration("max").save(tmp_path / "c.json")
    text = json.loads((tmp_path / "c.json").read_text()) | {"version": 9}
    (tmp_path / "c.json").write_text(json.dumps(text))
    with pytest.raises(CalibrationError, match="version 9"):
        Calibration.load(tmp_path / "c.json")


def with_(index: tuple[int, ...], value: float) -> NDArray[np.float32]:
    images = IMAGES.copy()
    images[index] = value
    return images


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (IMAGES * 60, "look like pixels of 0 to 255"),
        (with_((1, 0, 0, 0), np.nan), "NaN or Inf"),
        (with_((1, 0, 0, 0), np.inf), "NaN or Inf"),
        (IMAGES[:, :, :16], r"takes images of \[3, 32, 32\]; found \[3, 16, 32\]"),
        (IMAGES.astype(np.float64), "takes float32 images; found float64"),
        (np.repeat(IMAGES[:1], 9, 0), "all 9 calibration images are equal"),
        (IMAGES[:0], "no calibration images"),
    ],
    ids=["pixels", "NaN", "Inf", "shape", "dtype", "equal", "none"],
)
def test_images_that_cannot_be_meant(images: NDArray[np.float32], message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        seen(images, 8).calibration("max")


def test_few_images_are_warned_of() -> None:
    assert "calibrated on 24 images" in observed(NAME).calibration("max").warnings[0]


def test_a_model_that_overflows_is_named() -> None:
    graph = graph_of(NAME)
    weight = graph.value("layer2.0.conv1.weight").copy() * 1e6
    graph.add_constant("layer2.0.conv1.weight", weight)
    calibration = observe(graph, lambda _: iter([IMAGES])).calibration("max")
    assert next(iter(calibration.overflows())) == "layer2.0.relu1"
    graph.add_constant("layer2.0.conv1.weight", np.full_like(weight, np.float32(3e38)))
    with pytest.raises(CalibrationError, match=r"layer2\.0\.relu1 has NaN or Inf"):
        observe(graph, lambda _: iter([IMAGES]))


def test_graphs_that_cannot_be_calibrated() -> None:
    two = graph_of(NAME)
    two.model.graph.input.append(onnx.helper.make_tensor_value_info("other", 1, [1]))
    with pytest.raises(GraphError, match="has 2 inputs"):
        observe(two, lambda _: iter([IMAGES]))
    dynamic = graph_of(NAME)
    dynamic.input.type.tensor_type.shape.dim[2].dim_param = "height"
    with pytest.raises(GraphError, match=r"no dimension but the batch may be dynamic|cannot run"):
        observe(dynamic, lambda _: iter([IMAGES]))
    unknown = graph_of(NAME)
    unknown.model.graph.node[3].op_type = "Frobnicate"
    with pytest.raises(GraphError, match=r"ONNX Runtime cannot run .*Frobnicate"):
        observe(Graph(unknown.model), lambda _: iter([IMAGES]))


def test_auto_takes_the_method_that_errs_least() -> None:
    from resnet_deploy.precision import quantize
    from resnet_deploy.precision.auto import run_graph

    observer, held = seen(IMAGES[:16], 8), IMAGES[16:]
    chosen = best_method(observer, held)
    expected = run_graph(graph_of(NAME), held)
    errors = {
        m: relative_error(expected, run_graph(quantize(observer.graph, observer.calibration(m))[0], held)) for m in METHODS
    }
    assert errors[chosen] == min(errors.values())
