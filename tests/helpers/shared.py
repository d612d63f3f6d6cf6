"""What is made once in a run of the tests, by whichever of its processes needs it first."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

import resnet_deploy as rd
from resnet_deploy.bundle.store import Bundle

_run: Path | None = None


def use(factory: pytest.TempPathFactory) -> None:
    """Names the folder of the run; with pytest-xdist, each process has a folder of its own in it."""
    global _run
    base = factory.getbasetemp()
    _run = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def once(name: str, make: Callable[[Path], object]) -> Path:
    """A path in the folder of the run, made by the first process that asks for it while the others wait."""
    assert _run is not None, "tests/conftest.py names the folder of the run"
    path, done = _run / name, _run / f"{name}.done"
    with FileLock(f"{path}.lock"):
        if not done.exists():
            make(path)
            done.touch()
    return path


def exported(architecture: str, copy: Path | None = None, **options: Any) -> Bundle:
    """A bundle as `rd.export` makes it, for tests of what is done with one.

    Args:
        architecture: As for `rd.export`.
        copy: Where a test that changes the bundle has its own; without it, the bundle is everybody's.
        **options: Of `rd.export`.
    """
    key = hashlib.sha256(repr((architecture, sorted(options.items()))).encode()).hexdigest()[:12]
    path = once(f"bundle-{key}", lambda folder: rd.export(architecture, folder, **options))
    return Bundle.open(path if copy is None else Path(shutil.copytree(path, copy)))
