"""The C++ programs: built once a session, or what a machine lacks for them; how they are run and compared with Python."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock
from numpy.typing import NDArray

import resnet_deploy as rd
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.bundle.codec import signed
from resnet_deploy.bundle.names import MANIFEST
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.data.preprocessing import normalize
from resnet_deploy.serving.cpp.write import SOURCES
from resnet_deploy.specs import InputFormat

TESTS = Path(__file__).parents[1] / "serving" / "cpp"
TENSORRT_SOURCES = (Path("src/plan.cpp"), Path("src/tensorrt.cpp"))
PIXELS = np.random.default_rng(7).integers(0, 256, (5, 32, 32, 3), np.uint8)
Ask = Callable[[str], tuple[str, str]]
Edit = Callable[[dict[str, Any]], object]
HEADERS = {  # of a backend: the variable that names their folder, one of them, and where else they may be
    "onnxruntime": (
        "ONNXRUNTIME_INCLUDE",
        "onnxruntime_cxx_api.h",
        [f"{sys.prefix}/include/onnxruntime", "/usr/include/onnxruntime"],  # the first by `make setup`
    ),
    "tensorrt": ("TENSORRT_INCLUDE", "NvInferRuntime.h", ["/usr/include/x86_64-linux-gnu", "/usr/include/aarch64-linux-gnu"]),
}
HEADERS |= dict.fromkeys(("tensorrt-lean", "tensorrt-rtx"), HEADERS["tensorrt"])


def headers(backend: str) -> Path | None:
    """The folder of a runtime's headers."""
    variable, header, places = HEADERS[backend]
    named = [os.environ[variable]] if variable in os.environ else []
    return next((Path(place) for place in named + places if (Path(place) / header).is_file()), None)


@cache
def lacking(backend: str) -> str | None:
    """What is missing to build a backend."""
    if missing := [name for name in ("cmake", "g++") if shutil.which(name) is None]:
        return f"the C++ program for {backend} was not built: no {' and no '.join(missing)}; `make tools` installs them"
    variable, header, _ = HEADERS[backend]
    if headers(backend) is None:
        return f"the C++ program for {backend} was not built: no {header}; {variable}=FOLDER names its folder"
    return None


def build(factory: pytest.TempPathFactory, backend: str, *, sanitize: str = "") -> Path:
    """The folder of the programs for a backend, built where they are not yet; a skip where this machine cannot."""
    if (reason := lacking(backend)) is not None:
        pytest.skip(reason)
    # With pytest-xdist, each process has a folder of its own in one that is the session's.
    session = factory.getbasetemp().parent if "PYTEST_XDIST_WORKER" in os.environ else factory.getbasetemp()
    folder = session / f"cpp-{backend}-{sanitize.partition(',')[0] or 'release'}"
    with FileLock(f"{folder}.lock"):
        if not (folder / "done").exists():
            _make(folder, backend, sanitize)
            (folder / "done").touch()
    return folder


def _make(folder: Path, backend: str, sanitize: str) -> None:
    options = {
        "BACKEND": backend, HEADERS[backend][0]: str(headers(backend)), "WARNINGS_ARE_ERRORS": "ON", "SANITIZE": sanitize,
        "CMAKE_BUILD_TYPE": "Debug" if sanitize else "Release",
    }  # fmt: skip
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # this Python's wheels have the libraries
    configure = ["cmake", "-S", str(TESTS), "-B", str(folder), *(f"-D{name}={value}" for name, value in options.items())]
    target = ["--target", "classify"] if sanitize else []
    for command in (configure, ["cmake", "--build", str(folder), "-j2", *target]):
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": path})
        if done.returncode != 0 and f"No library of {backend}" in done.stderr:
            pytest.skip(f"the C++ program for {backend} was not built: {' '.join(done.stderr.split())}")
        assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-4000:]}{done.stderr[-4000:]}"


def classify(folder: Path) -> Path:
    return folder / "example" / "resnet_deploy" / "classify"


def ppm(pixels: NDArray[np.uint8], header: str | None = None) -> bytes:
    height, width = pixels.shape[:2]
    return (header or f"P6\n{width} {height}\n255\n").encode() + pixels.tobytes()


def run(program: Path, *arguments: str | Path, code: int = 0, **given: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=300, **given)
    assert done.returncode == code, f"{done.returncode}\n{done.stdout[-2000:]}{done.stderr[-8000:]}"
    return done


def answers(program: Path, bundle: Path, images: list[str], *options: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(program, bundle, *images, "--json", *options).stdout.splitlines()]


def expected(bundle: Bundle, backend: str = "onnxruntime") -> dict[str, NDArray[Any]]:
    opened = OpenedBundle(bundle)
    pixels: NDArray[Any] = PIXELS
    if opened.description.input_format is InputFormat.FLOAT:
        pixels = normalize(PIXELS, opened.preprocessing)
        pixels = pixels.astype(np.float16) if ":fp16" in backend else pixels
    with opened.backend(Candidate.parse(backend), threads=None) as running:
        return {name: np.array(values) for name, values in running.infer(pixels).items()}


def compare(found: list[dict[str, Any]], wanted: dict[str, NDArray[Any]], tolerance: float = 1e-5) -> None:
    """Every output of every image; to the last bit where it is of integers."""
    assert len(found) == len(PIXELS)
    for index, answer in enumerate(found):
        assert set(answer["outputs"]) == set(wanted)
        for name, values in wanted.items():
            given = answer["outputs"][name]
            assert tuple(given["shape"]) == values.shape[1:]
            np.testing.assert_allclose(
                np.reshape(given["values"], values.shape[1:]), values[index].astype(np.float64), rtol=0,
                atol=tolerance * max(1.0, float(np.abs(values).max())) if values.dtype.kind == "f" else 0,
            )  # fmt: skip


def lint(folder: Path, sources: Sequence[Path], joined: Path) -> None:
    """Run clang-tidy over sources of a project that was compiled in a folder, joined to one file: nearly all of its time goes
    into the headers, which are the same for all. What it says names the sources' own lines."""
    if shutil.which("clang-tidy") is None:
        pytest.skip("the C++ sources were not linted: no clang-tidy; `make tools` installs it")
    words = [word for entry in json.loads((folder / "compile_commands.json").read_text()) for word in entry["command"].split()]
    systems = {words[index + 1] for index, word in enumerate(words) if word == "-isystem"}
    flags = {word for word in words if word.startswith(("-I", "-D", "-std="))} | {f"-isystem{system}" for system in systems}
    parts = [f'#line 1 "{SOURCES / source}"\n{(SOURCES / source).read_text()}' for source in sources]
    joined.write_text("\n".join(parts))
    command = ["clang-tidy", "-quiet", f"--config-file={SOURCES / '.clang-tidy'}", "--checks=-readability-duplicate-include"]
    done = subprocess.run([*command, joined, "--", f"-I{SOURCES / 'src'}", *sorted(flags)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def changed(bundle: Bundle, folder: Path, edit: Edit) -> Path:
    """A copy whose manifest was changed by a program that knows how to digest it."""
    shutil.copytree(bundle.path, folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    edit(manifest)
    (folder / MANIFEST).write_bytes(signed(manifest))
    return folder


def planned(bundle: Bundle, folder: Path, **options: Any) -> Bundle:
    """A copy with a plan of TensorRT-RTX for batches to 8."""
    shutil.copytree(bundle.path, folder)
    rd.build(folder, batch="1:8:8", flavour="tensorrt-rtx", **options)
    return Bundle.open(folder)


def asking(folder: Path) -> Iterator[Ask]:
    """A call of the program `units`: what it said in front, and what it said."""
    with subprocess.Popen([folder / "units"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        sent, received = process.stdin, process.stdout

        def ask(line: str) -> tuple[str, str]:
            sent.write(f"{line}\n")
            sent.flush()
            first, _, rest = received.readline().rstrip("\n").partition(" ")
            return first, rest

        yield ask
        sent.close()
    assert process.returncode == 0
