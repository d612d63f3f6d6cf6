"""The C++ program on a real device, against Python's backend on the same plans.

The headers of TensorRT or TensorRT-RTX are named by TENSORRT_INCLUDE; a machine that lacks them skips, with the reason.
"""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest

import resnet_deploy as rd
from resnet_deploy.bundle.manifest import PlanFile
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.specs import Precision
from tests.helpers.cpp import PIXELS, answers, build, changed, classify, compare, expected, ppm, run
from tests.helpers.engines import FLAVOURS, ready
from tests.helpers.paths import DIGITS


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("pixels")
    paths = [folder / f"{index}.ppm" for index in range(len(PIXELS))]
    for path, pixels in zip(paths, PIXELS, strict=True):
        path.write_bytes(ppm(pixels))
    return [str(path) for path in paths]


@pytest.fixture(scope="module", params=FLAVOURS)
def flavour(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def program(flavour: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classify(build(tmp_path_factory, flavour))


def planned(flavour: str, folder: Path, **options: str) -> Bundle:
    """A bundle with plans for this GPU, FP32 and FP16, of batches to 8."""
    bundle = rd.export("resnet20", folder, weights=DIGITS, max_batch=8, precision="fp32,fp16", **options)
    for text in (flavour, f"{flavour}:fp16"):
        ready(bundle, text, (1, 2, 5, 8))
    return bundle


@pytest.fixture(scope="module")
def bundle(flavour: str, program: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return planned(flavour, tmp_path_factory.mktemp("plans") / "bundle", input="uint8")


@pytest.mark.parametrize("options", [(), ("--no-cuda-graph",), ("--contexts", "3")], ids=" ".join)
@pytest.mark.parametrize("batch", ["1", "2", "5"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_answers_equal_pythons(
    program: Path, bundle: Bundle, flavour: str, images: list[str], precision: str, batch: str, options: tuple[str, ...]
) -> None:
    found = answers(program, bundle.path, images, "--batch", batch, "--precision", precision, *options)
    # Kernels are chosen by batch size, and Python ran all five images at once.
    tolerance = 1e-5 if batch == "5" else {"fp32": 1e-4, "fp16": 1e-2}[precision]
    compare(found, expected(bundle, f"{flavour}:{precision}"), tolerance)


@pytest.mark.parametrize("head", ["embedding", "topk:3", "features"])
def test_every_head_and_float_input(program: Path, flavour: str, images: list[str], tmp_path: Path, head: str) -> None:
    bundle = planned(flavour, tmp_path / "bundle", input="float", head=head)
    compare(answers(program, bundle.path, images, "--batch", "5"), expected(bundle, flavour))


def test_a_replayed_graph_reads_each_image(program: Path, bundle: Bundle, images: list[str]) -> None:
    """One context: the same image between others has the same answer each time."""
    found = answers(program, bundle.path, [*images, *images[::-1]])
    for first, again in zip(found, found[::-1], strict=True):
        np.testing.assert_allclose(first["outputs"]["logits"]["values"], again["outputs"]["logits"]["values"], atol=1e-5)


def test_10_000_inferences_on_4_threads(program: Path, bundle: Bundle, images: list[str]) -> None:
    found = answers(program, bundle.path, images, "--repeat", "2000", "--contexts", "4")
    assert len(found.pop()["latency_s"]) == 10_000
    assert [answer["outputs"] for answer in found]


def test_what_does_not_fit(program: Path, bundle: Bundle, flavour: str, images: list[str], tmp_path: Path) -> None:
    name = next(n for n, e in bundle.manifest.files(PlanFile).items() if e.precision is Precision.FP32)
    others = {"gpu": "NVIDIA Voodoo 3", "compute_capability": "1.0", "targets": [], "hardware_compatible": None}
    folder = changed(bundle, tmp_path / "gpu", lambda m: m["artifacts"][name]["origin"].update(others))
    assert "the plan was built with" in run(program, folder, images[0], "--precision", "fp32", code=3).stderr
    assert "there is no GPU 999" in run(program, bundle.path, images[0], "--device", "999", code=2).stderr
    assert "a batch is 1 to" in run(program, bundle.path, *images * 200, "--batch", "1000", code=2).stderr


def test_a_damaged_plan(program: Path, bundle: Bundle, images: list[str], tmp_path: Path) -> None:
    """One that a manifest vouches for, so that TensorRT itself refuses it."""
    name = next(n for n, e in bundle.manifest.files(PlanFile).items() if e.precision is Precision.FP32)
    whole = (bundle.path / name).read_bytes()
    for number, content in enumerate((b"garbage" * 1000, whole[: len(whole) // 2])):
        digest = hashlib.sha256(content).hexdigest()
        folder = changed(bundle, tmp_path / str(number), lambda m, d=digest: m["artifacts"][name].update(sha256=d))
        (folder / name).write_bytes(content)
        assert "cannot load" in run(program, folder, images[0], "--precision", "fp32", code=2).stderr
        shutil.rmtree(folder)
