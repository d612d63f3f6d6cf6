"""The C++ programs, built once a session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.cpp import PIXELS, Ask, asking, build, classify, ppm


@pytest.fixture(scope="session")
def ort_build(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory, "onnxruntime")


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
