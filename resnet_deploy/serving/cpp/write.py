"""A C++ project that runs one bundle: the sources of `project`, and a bundle of the files that it loads."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Struct

from resnet_deploy import _json
from resnet_deploy._files import drafted, sha256_file, writing
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.backends.table import BACKENDS
from resnet_deploy.bundle.fields import Sha256
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.errors import BundleError, UsageError
from resnet_deploy.pipeline.restore import restore
from resnet_deploy.precisions import PRECISIONS, Precision
from resnet_deploy.specs import silent

WRITTEN = ".resnet-deploy.json"
SOURCES = Path(__file__).parent / "project"


@dataclass(frozen=True, kw_only=True)
class Project:
    """A written C++ project.

    Attributes:
        path: its folder.
        backend, precision: of what it runs.
        artifacts: the files that it loads, of `path`/bundle.
    """

    path: Path
    backend: str
    precision: Precision
    artifacts: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "project": str(self.path), "backend": self.backend, "precision": self.precision.value,
            "artifacts": list(self.artifacts),
        }  # fmt: skip


def write_cpp(
    bundle: Bundle | str | Path, output: str | Path, *, backend: str = "onnxruntime", precision: str = "fp32"
) -> Project:
    """Write a CMake project that runs a bundle: a library with one header, the program classify, the bundle.

    Args:
        bundle: a bundle, or its folder; a graph of it that is gone is made again.
        output: a folder that is not there yet, or empty: it appears whole or not at all; or a project that was written
            before, whose own files are brought up to date where they were not edited.
        backend: onnxruntime (its CPU kernels), tensorrt, tensorrt-lean or tensorrt-rtx, which take all
            plans that they run, and the program chooses the one for its machine.
        precision: of the file that it runs.

    Returns:
        The project.

    Raises:
        UsageError: a file that has not been made, or a folder that is not a project's.
        BundleError: the folder cannot be written.
        StorageError: the disk is full.
    """
    known = [row.name for row in BACKENDS.values() if row.cpp]
    if backend not in known:
        raise UsageError(f"unknown backend {backend!r}; choose {', '.join(known)}")
    if precision not in PRECISIONS:
        raise UsageError(f"unknown precision {precision!r}; choose {', '.join(PRECISIONS)}")
    candidate = Candidate.parse(f"{backend}:{precision}")
    opened = OpenedBundle(Bundle.open(bundle))
    names = tuple(opened.plans(candidate)) if candidate.row.runs == "plan" else (opened.graph(candidate),)
    output = Path(output)
    if output.exists() and not output.is_dir():
        raise BundleError(f"{output} is a file; a project is a folder")
    restore(opened.bundle, names, silent)
    with writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
    with drafted(output.parent, f".{output.name}.") as folder, writing(output):
        project = folder / "project"
        _write(opened.bundle, project, names, backend)
        if output.is_dir() and any(output.iterdir()):
            _refresh(output, project)
        else:
            project.replace(output)
    return Project(path=output, backend=backend, precision=candidate.precision, artifacts=names)


def list_sources() -> list[Path]:
    """The project's own files, relative to SOURCES: what is hidden, such as clang-tidy's settings, is ours."""
    return sorted(path.relative_to(SOURCES) for path in SOURCES.glob("**/[!.]*") if path.is_file())


class _Written(Struct, frozen=True, kw_only=True):
    """The files of a project as they were written, by their paths in it: what was edited since is the user's."""

    files: dict[Annotated[str, Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+=-]*(/[A-Za-z0-9_][A-Za-z0-9_.+=-]*)?$(?!\n)")], Sha256]


def _write(bundle: Bundle, project: Path, names: tuple[str, ...], backend: str) -> None:
    bundle.extract(project / "bundle", names)
    for source in list_sources():
        (project / source).parent.mkdir(exist_ok=True)
        shutil.copyfile(SOURCES / source, project / source)
    (project / "CMakePresets.json").write_text(json.dumps(_presets(backend), indent=2) + "\n")
    files = {str(path.relative_to(project)): sha256_file(path) for path in sorted(project.rglob("*")) if path.is_file()}
    (project / WRITTEN).write_bytes(_json.encode(_Written(files=files)))
    project.chmod(0o755)


def _refresh(output: Path, project: Path) -> None:
    """Bring a project that was written before up to date: its own files alone, and none that was edited since."""
    try:
        before = _json.decode((output / WRITTEN).read_bytes(), _Written).files
    except (OSError, ValueError):
        raise BundleError(
            f"{output} is not empty, and holds no project that `resnet-deploy cpp` wrote: nothing in it is overwritten. Choose "
            "another folder, or remove it first"
        ) from None
    after = _json.decode((project / WRITTEN).read_bytes(), _Written).files
    for name in {*before, *after}:
        path = output / name
        known = {before.get(name), after.get(name)}
        if path.is_symlink() or path.parent.is_symlink() or (path.exists() and sha256_file(path) not in known):
            raise BundleError(f"{path} was edited after it was written: it is not overwritten. Choose another folder")
    for parent in {(output / name).parent for name in after}:
        parent.mkdir(exist_ok=True)
    for name in [*after, WRITTEN]:
        (project / name).replace(output / name)
    for name in set(before) - set(after):
        (output / name).unlink(missing_ok=True)


def _presets(backend: str) -> dict[str, Any]:
    """What `cmake --preset default` configures: https://cmake.org/cmake/help/latest/manual/cmake-presets.7.html."""
    preset = {"name": "default", "binaryDir": "${sourceDir}/build", "cacheVariables": {"BACKEND": backend}}
    return {"version": 3, "configurePresets": [preset], "buildPresets": [{"name": "default", "configurePreset": "default"}]}
