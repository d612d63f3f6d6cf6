"""`resnet-deploy cpp`: the project that it writes is whole, builds as its README says, and nothing is overwritten."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from click.testing import CliRunner

import resnet_deploy as rd
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.cli import main
from resnet_deploy.errors import BundleError, IntegrityError, UsageError
from resnet_deploy.serving.cpp.write import SOURCES, WRITTEN, list_sources
from tests.helpers.cpp import answers, compare, expected, headers, lacking
from tests.helpers.paths import ROOT

pytestmark = pytest.mark.slow

FILES = {"CMakeLists.txt", "CMakePresets.json", "README.md", "classify.cpp", "resnet_deploy.h", "src", "bundle"}


def test_the_project(digits_bundle: Bundle, tmp_path: Path) -> None:
    project = rd.write_cpp(digits_bundle.path, tmp_path / "new" / "project")
    assert {path.name for path in project.path.iterdir()} == FILES | {WRITTEN} and project.artifacts == ("model.fp32.onnx",)
    assert Path("src/model.cpp") in list_sources()
    for name in list_sources():
        assert (project.path / name).read_bytes() == (SOURCES / name).read_bytes()
    own = Bundle.open(project.path / "bundle")
    assert list(own.manifest.artifacts) == ["model.fp32.onnx"] and own.manifest.model == digits_bundle.manifest.model
    assert own.artifact("model.fp32.onnx").read_bytes() == digits_bundle.artifact("model.fp32.onnx").read_bytes()
    assert project.path.stat().st_mode & 0o777 == 0o755 and [path.name for path in project.path.parent.iterdir()] == ["project"]


def test_it_builds_as_its_readme_says(digits_bundle: Bundle, tmp_path: Path, images: list[str]) -> None:
    if (reason := lacking("onnxruntime")) is not None:
        pytest.skip(reason)
    project = rd.write_cpp(digits_bundle, tmp_path / "project").path
    (command,) = [line for line in (project / "README.md").read_text().splitlines() if "--preset default &&" in line]
    configure, build = command.partition("#")[0].strip().split(" && ")
    clean = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for text in (f"{configure} -D ONNXRUNTIME_INCLUDE={headers('onnxruntime')}", build):
        done = subprocess.run(text, shell=True, cwd=project, capture_output=True, text=True, env=clean)
        assert done.returncode == 0, done.stdout + done.stderr
    compare(answers(project / "build" / "classify", project / "bundle", images), expected(digits_bundle))


def test_nothing_is_overwritten(digits_bundle: Bundle, tmp_path: Path) -> None:
    full, empty, file = tmp_path / "full", tmp_path / "empty", tmp_path / "file"
    full.mkdir(), empty.mkdir(), file.write_text("mine")  # type: ignore[func-returns-value]
    (full / ".hidden").write_text("mine")
    with pytest.raises(BundleError, match=r"is not empty, and holds no project .*nothing in it is overwritten"):
        rd.write_cpp(digits_bundle, full)
    with pytest.raises(BundleError, match="is a file; a project is a folder"):
        rd.write_cpp(digits_bundle, file)
    with pytest.raises(BundleError, match="cannot write"):
        rd.write_cpp(digits_bundle, file / "project")
    rd.write_cpp(digits_bundle, empty)
    assert {path.name for path in empty.iterdir()} == FILES | {WRITTEN}
    assert (full / ".hidden").read_text() == file.read_text() == "mine" and len(list(tmp_path.iterdir())) == 3


def test_what_cannot_be_written_leaves_nothing(digits_bundle: Bundle, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(digits_bundle.path, damaged)
    (damaged / "model.fp32.onnx").write_bytes(b"damaged")
    with pytest.raises(IntegrityError, match="was changed after it was made"):
        rd.write_cpp(damaged, tmp_path / "project")
    for options, said in (
        ({"backend": "eager"}, "unknown backend 'eager'; choose onnxruntime, tensorrt, tensorrt-rtx, tensorrt-lean"),
        ({"precision": "fp64"}, "unknown precision 'fp64'"),
        ({"precision": "int8"}, "has no model.int8-cpu.onnx"),
        ({"backend": "tensorrt"}, "has no plan of model.fp32.onnx for tensorrt; make one with"),
        ({"backend": "tensorrt", "precision": "int8"}, "has no model.int8.onnx"),
    ):
        with pytest.raises(UsageError, match=said):
            rd.write_cpp(digits_bundle, tmp_path / "project", **options)
    assert [path.name for path in tmp_path.iterdir()] == ["damaged"]


def test_the_command(digits_bundle: Bundle, tmp_path: Path) -> None:
    call = ["cpp", str(digits_bundle.path), "-o", str(tmp_path / "a")]
    done = CliRunner().invoke(main, call)
    assert done.exit_code == 0 and f"{tmp_path}/a: runs model.fp32.onnx with onnxruntime" in done.output
    done = CliRunner().invoke(main, call)
    assert done.exit_code == 0, "its own finished output is brought up to date, as every command does"
    found = json.loads(CliRunner().invoke(main, [*call[:-1], str(tmp_path / "b"), "--json"]).output)
    assert found == {
        "project": str(tmp_path / "b"), "backend": "onnxruntime", "precision": "fp32", "artifacts": ["model.fp32.onnx"]
    }  # fmt: skip


def test_a_project_is_brought_up_to_date_where_nobody_edited_it(digits_bundle: Bundle, tmp_path: Path) -> None:
    project = rd.write_cpp(digits_bundle, tmp_path / "project").path
    (project / "build").mkdir()
    (project / "build" / "classify").write_text("built")
    (project / "CMakeLists.txt").unlink()
    (project / "bundle" / "model.fp32.onnx").unlink()
    rd.write_cpp(digits_bundle, project)
    assert (project / "CMakeLists.txt").is_file() and (project / "build" / "classify").read_text() == "built"
    Bundle.open(project / "bundle").artifact("model.fp32.onnx")
    (project / "classify.cpp").write_text("mine")
    with pytest.raises(BundleError, match=r"classify\.cpp was edited after it was written"):
        rd.write_cpp(digits_bundle, project)
    assert (project / "classify.cpp").read_text() == "mine" and [path.name for path in tmp_path.iterdir()] == ["project"]


def test_a_project_of_an_older_layout_is_brought_up_to_date(digits_bundle: Bundle, tmp_path: Path) -> None:
    """One source beside the header, and no folder src: the one goes, the other comes."""
    project = rd.write_cpp(digits_bundle, tmp_path / "project").path
    (project / "src").rename(tmp_path / "src")
    (project / "resnet_deploy.cpp").write_text("all of it")
    written = json.loads((project / WRITTEN).read_text())
    own = {name: digest for name, digest in written["files"].items() if not name.startswith("src/")}
    own["resnet_deploy.cpp"] = hashlib.sha256(b"all of it").hexdigest()
    (project / WRITTEN).write_text(json.dumps({**written, "files": own}))
    rd.write_cpp(digits_bundle, project)
    assert {path.name for path in project.iterdir()} == FILES | {WRITTEN}
    assert {path.name for path in (project / "src").iterdir()} == {path.name for path in (tmp_path / "src").iterdir()}


def test_a_project_that_is_a_link_inside_is_refused(digits_bundle: Bundle, tmp_path: Path) -> None:
    project, outside = rd.write_cpp(digits_bundle, tmp_path / "project").path, tmp_path / "outside"
    shutil.copytree(project / "bundle", outside)
    shutil.rmtree(project / "bundle")
    (project / "bundle").symlink_to(outside)
    (outside / "model.fp32.onnx").unlink()
    with pytest.raises(BundleError, match="was edited"):
        rd.write_cpp(digits_bundle, project)
    assert not (outside / "model.fp32.onnx").exists()


def test_an_installed_package_has_the_sources(tmp_path: Path) -> None:
    """The wheel, made of what git knows or would."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "resnet_deploy", "pyproject.toml", "README.md"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (tmp_path / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "source" / name).write_bytes((ROOT / name).read_bytes())
    code = f"import setuptools.build_meta as b; print(b.build_wheel({str(tmp_path)!r}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "source", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with zipfile.ZipFile(tmp_path / done.stdout.split()[-1]) as wheel:
        packed = {name.partition("/cpp/project/")[2] for name in wheel.namelist() if "/cpp/project/" in name}
    assert packed == {str(name) for name in list_sources()}
