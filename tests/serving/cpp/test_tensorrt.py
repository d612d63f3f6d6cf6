"""The C++ program with TensorRT-RTX, as far as it goes without a GPU; tests/gpu has the rest."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import resnet_deploy as rd
from resnet_deploy.bundle.manifest import PlanFile
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.engine.flavours import gpu
from tests.helpers.cpp import TENSORRT_SOURCES, Ask, asking, build, changed, classify, lint, planned, run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def rtx_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled with -Wall -Wextra -Werror and linked."""
    return build(tmp_path_factory, "tensorrt-rtx")


@pytest.fixture(scope="module")
def rtx_units(rtx_build: Path) -> Iterator[Ask]:
    yield from asking(rtx_build)


@pytest.fixture(scope="module")
def bundle(rtx_build: Path, digits_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return planned(digits_bundle, tmp_path_factory.mktemp("plans") / "bundle", compute_capability="sm86,sm89")


def plan_of(bundle: Bundle) -> tuple[str, dict[str, Any]]:
    return next(iter(bundle.manifest.files(PlanFile).items()))


def test_plans_that_are_none_are_refused_before_cuda_is_asked(rtx_units: Ask, bundle: Bundle, tmp_path: Path) -> None:
    whole = (bundle.path / plan_of(bundle)[0]).read_bytes()
    path = tmp_path / "model.plan"
    for content in (b"", b"x", whole[:20], whole[:1000], whole[:-1], whole + b"\0", b"garbage " * 4096, b"\0" * 4096):
        path.write_bytes(content)
        said, message = rtx_units(f"engine {path}")
        assert said == "2" and str(path) in message and "build" in message, message
        assert "cudaError" not in message and " In " not in message
    if gpu() is None:
        path.write_bytes(whole)
        said, message = rtx_units(f"engine {path}")
        assert said == "3" and "It needs an NVIDIA GPU and its driver" in message


def test_without_a_gpu(rtx_build: Path, bundle: Bundle, images: list[str]) -> None:
    if gpu() is not None:
        pytest.skip("this machine has a GPU")
    said = run(classify(rtx_build), bundle.path, images[0], code=3).stderr
    assert "no NVIDIA GPU that can be used (" in said and said.count("\n") == 1


def test_a_plan_that_was_changed(rtx_build: Path, bundle: Bundle, images: list[str], tmp_path: Path) -> None:
    """Said before what the machine lacks: nothing of it reaches TensorRT."""
    folder, (name, _) = tmp_path / "bundle", plan_of(bundle)
    shutil.copytree(bundle.path, folder)
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    assert "was changed after it was made" in run(classify(rtx_build), folder, images[0], code=2).stderr


@pytest.mark.parametrize(
    ("origin", "found"),
    [
        ({"version": "1.6.0.50"}, "found tensorrt-rtx "),
        ({"version": "99.0.0.1", "version_compatible": True}, "found tensorrt-rtx "),
        ({"platform": "Windows-AMD64"}, "found Linux-"),
    ],
)
def test_plans_of_another_version_or_system(
    rtx_build: Path,
    bundle: Bundle,
    images: list[str],
    tmp_path: Path,
    origin: dict[str, Any],
    found: str,
) -> None:
    name, _ = plan_of(bundle)
    folder = changed(bundle, tmp_path / "bundle", lambda m: m["artifacts"][name]["origin"].update(origin))
    said = run(classify(rtx_build), folder, images[0], code=3).stderr
    assert "the plan was built with tensorrt-rtx" in said and found in said and "Build it again here with" in said


def test_plans_that_are_not_there(rtx_build: Path, bundle: Bundle, images: list[str], tmp_path: Path) -> None:
    said = run(classify(rtx_build), bundle.path, images[0], "--precision", "int8", code=2).stderr
    assert re.search(r"has no int8 plan for tensorrt-rtx; make one with `resnet-deploy build DIR --precision int8", said)
    name, _ = plan_of(bundle)
    edits: list[tuple[Any, str]] = [
        (lambda m: m["artifacts"][name]["origin"].update(flavour="tensorrt"), "has no fp32 plan for tensorrt-rtx"),
        (lambda m: m["artifacts"][name].update(made_from="0" * 64), "has no fp32 plan for tensorrt-rtx"),
        (lambda m: m["artifacts"][name]["origin"].pop("targets"), "origin.targets"),
        (lambda m: m["artifacts"].update({f"../{name}": m["artifacts"].pop(name)}), "names a file outside its folder"),
    ]
    for number, (edit, said) in enumerate(edits):
        folder = changed(bundle, tmp_path / str(number), edit)
        assert said in run(classify(rtx_build), folder, images[0], code=2).stderr


def test_the_project_of_a_plan_has_it_alone(rtx_build: Path, bundle: Bundle, images: list[str], tmp_path: Path) -> None:
    project = rd.write_cpp(bundle, tmp_path / "project", backend="tensorrt-rtx")
    name, _ = plan_of(bundle)
    assert project.artifacts == (name,)
    assert {path.name for path in (tmp_path / "project" / "bundle").iterdir()} == {name, "manifest.json"}
    if gpu() is None:
        assert "no NVIDIA GPU" in run(classify(rtx_build), tmp_path / "project" / "bundle", images[0], code=3).stderr


@pytest.mark.slow
def test_clang_tidy(rtx_build: Path, tmp_path: Path) -> None:
    lint(rtx_build, TENSORRT_SOURCES, tmp_path / "joined.cpp")
