"""A C++ project that runs one bundle: the sources of `cpp_project`, and a bundle of the files that it loads."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_deploy._files import writing
from resnet_deploy.backends.base import PLANS, Candidate
from resnet_deploy.bundle.opened import Subject
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.errors import BundleError, UsageError
from resnet_deploy.specs import Precision

SOURCES = Path(__file__).parent / "cpp_project"
BACKENDS = ("onnxruntime", *sorted(PLANS))


@dataclass(frozen=True, kw_only=True)
class Project:
    """A written project. backend, precision: of what it runs. artifacts: the files that it loads, of `path`/bundle."""

    path: Path
    backend: str
    precision: Precision
    artifacts: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "project": str(self.path), "backend": self.backend, "precision": self.precision.value,
            "artifacts": list(self.artifacts),
        }  # fmt: skip


def cpp(bundle: Bundle | str | Path, output: str | Path, *, backend: str = "onnxruntime", precision: str = "fp32") -> Project:
    """Write a CMake project that runs a bundle: a library of one header and one source, the program classify, the bundle.

    output: a folder that is not there yet, or empty; it appears whole or not at all. backend: onnxruntime (its CPU kernels),
    tensorrt or tensorrt-rtx, whose plans that were built are all taken: the program chooses the one for its machine.
    Raises UsageError for what has not been made, BundleError where the folder cannot be written, StorageError on a full disk.
    """
    if backend not in BACKENDS:
        raise UsageError(f"unknown backend {backend!r}; choose {', '.join(BACKENDS)}")
    kinds = {kind.value: kind for kind in Precision}
    if precision not in kinds:
        raise UsageError(f"unknown precision {precision!r}; choose {', '.join(kinds)}")
    candidate = Candidate.parse(f"{backend}:{precision}")
    subject = Subject(Bundle.open(bundle))
    names = tuple(subject.plans(candidate)) if backend in PLANS else (subject.graph(candidate),)
    output = Path(output)
    _check_new(output)
    with writing(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}."))
    try:
        subject.bundle.extract(beside / "bundle", names)
        with writing(output):
            for source in SOURCES.iterdir():
                if not source.name.startswith("."):
                    shutil.copyfile(source, beside / source.name)
            (beside / "CMakePresets.json").write_text(json.dumps(_presets(backend), indent=2) + "\n")
            beside.chmod(0o755)
            beside.replace(output)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise
    return Project(path=output, backend=backend, precision=candidate.precision, artifacts=names)


def _check_new(output: Path) -> None:
    if output.exists() and not output.is_dir():
        raise BundleError(f"{output} is a file; a project is a folder")
    if output.is_dir() and any(output.iterdir()):
        raise BundleError(f"{output} is not empty: nothing in it is overwritten. Choose another folder, or remove it first")


def _presets(backend: str) -> dict[str, Any]:
    """What `cmake --preset default` configures: https://cmake.org/cmake/help/latest/manual/cmake-presets.7.html."""
    preset = {"name": "default", "binaryDir": "${sourceDir}/build", "cacheVariables": {"BACKEND": backend}}
    return {"version": 3, "configurePresets": [preset], "buildPresets": [{"name": "default", "configurePreset": "default"}]}
