"""The C++ programs, built once a session."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.helpers.cpp import PIXELS, build, classify, ppm

Ask = Callable[[str], tuple[str, str]]


@pytest.fixture(scope="session")
def ort_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory, "onnxruntime")


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


@pytest.fixture(scope="module")
def units(ort_build: Path) -> Iterator[Ask]:
    yield from asking(ort_build)


@pytest.fixture(scope="session")
def program(ort_build: Path) -> Path:
    return classify(ort_build)


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("images")
    for index, pixels in enumerate(PIXELS):
        (folder / f"{index}.ppm").write_bytes(ppm(pixels))
    return [str(folder / f"{index}.ppm") for index in range(len(PIXELS))]
