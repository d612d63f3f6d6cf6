"""The C++ library with TensorRT's lean runtime, as far as it goes without a GPU: it links, and refuses what it should."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import resnet_deploy as rd
from resnet_deploy.bundle.manifest import PlanFile
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.engine.flavours import gpu
from resnet_deploy.errors import UsageError
from tests.helpers.cpp import TENSORRT_SOURCES, Ask, asking, build, classify, lint, planned, run
from tests.helpers.engines import compatible

pytestmark = pytest.mark.slow
needs_no_gpu = pytest.mark.skipif(gpu() is not None, reason="this machine has a GPU")


@pytest.fixture(scope="session")
def lean_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled with -Wall -Wextra -Werror and linked."""
    return build(tmp_path_factory, "tensorrt-lean")


@pytest.fixture(scope="module")
def lean_units(lean_build: Path) -> Iterator[Ask]:
    yield from asking(lean_build)


@pytest.fixture(scope="module")
def bundle(lean_build: Path, digits_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """With a plan of TensorRT-RTX."""
    return planned(digits_bundle, tmp_path_factory.mktemp("plans") / "bundle", compute_capability="sm86")


def test_it_links_with_the_lean_library_alone(lean_build: Path) -> None:
    needed = subprocess.run(["ldd", classify(lean_build)], capture_output=True, text=True, check=True).stdout
    assert "libnvinfer_lean.so.11 => /" in needed and "libnvinfer.so" not in needed


def test_plans_that_are_none_are_refused_before_cuda_is_asked(lean_units: Ask, bundle: Bundle, tmp_path: Path) -> None:
    rtx = (bundle.path / next(iter(bundle.manifest.files(PlanFile)))).read_bytes()
    path = tmp_path / "model.plan"
    for content in (b"", b"x", b"ftrt", b"ftrt" + bytes(23), rtx, rtx[:1000], b"garbage " * 4096, bytes(4096)):
        path.write_bytes(content)
        said, message = lean_units(f"engine {path}")
        assert said == "2" and str(path) in message and "uild it again" in message, message


@needs_no_gpu
def test_without_a_driver_the_library_is_not_touched(lean_units: Ask, tmp_path: Path) -> None:
    """Its own runtime would be a pointer to nowhere."""
    path = tmp_path / "model.plan"
    path.write_bytes(b"ftrt" + bytes(4092))
    said, message = lean_units(f"engine {path}")
    assert said == "3" and "no NVIDIA GPU that can be used (" in message


@needs_no_gpu
def test_a_version_compatible_plan_needs_a_gpu(lean_build: Path, bundle: Bundle, images: list[str], tmp_path: Path) -> None:
    for number, origin in enumerate([{}, {"version": "10.16.1.11"}]):
        folder = compatible(bundle, tmp_path / str(number), **origin)
        said = run(classify(lean_build), folder, images[0], code=3).stderr
        assert "no NVIDIA GPU that can be used (" in said and said.count("\n") == 1


@pytest.mark.parametrize("origin", [{"version_compatible": False}, {"flavour": "tensorrt-rtx"}], ids=str)
def test_other_plans_are_not_run(
    lean_build: Path, bundle: Bundle, images: list[str], tmp_path: Path, origin: dict[str, Any]
) -> None:
    folder = compatible(bundle, tmp_path / "bundle", **origin)
    said = run(classify(lean_build), folder, images[0], code=2).stderr
    assert "has no fp32 version-compatible plan for tensorrt-lean; make one with `resnet-deploy build DIR" in said
    assert "--precision fp32 --flavour tensorrt --version-compatible`" in said
    with pytest.raises(UsageError, match=r"has no plan of .* for tensorrt-lean; make one with .* --version-compatible`"):
        rd.write_cpp(folder, tmp_path / "project", backend="tensorrt-lean")


@pytest.mark.parametrize("version", ["8.6.1", "11.4.0.107", "12.0"])
def test_plans_of_another_version(lean_build: Path, bundle: Bundle, images: list[str], tmp_path: Path, version: str) -> None:
    folder = compatible(bundle, tmp_path / "bundle", version=version)
    said = run(classify(lean_build), folder, images[0], code=3).stderr
    assert f"the plan was built with tensorrt {version} for NVIDIA H200 (sm90)" in said and "found tensorrt-lean 11." in said
    assert "resnet-deploy build DIR --flavour tensorrt --version-compatible`" in said


def test_a_plan_that_was_changed(lean_build: Path, bundle: Bundle, images: list[str], tmp_path: Path) -> None:
    folder = compatible(bundle, tmp_path / "bundle")
    (name,) = bundle.manifest.files(PlanFile)
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    assert "was changed after it was made" in run(classify(lean_build), folder, images[0], code=2).stderr


def test_the_project_has_the_plan_alone(lean_build: Path, bundle: Bundle, tmp_path: Path) -> None:
    project = rd.write_cpp(compatible(bundle, tmp_path / "bundle"), tmp_path / "project", backend="tensorrt-lean")
    (name,) = bundle.manifest.files(PlanFile)
    assert project.artifacts == (name,)
    assert '"BACKEND": "tensorrt-lean"' in (project.path / "CMakePresets.json").read_text()


def test_clang_tidy(lean_build: Path, tmp_path: Path) -> None:
    lint(lean_build, TENSORRT_SOURCES, tmp_path / "joined.cpp")
