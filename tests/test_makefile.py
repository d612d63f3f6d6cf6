"""The Makefile refuses what cannot be installed together."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from tests.helpers.paths import ROOT

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.mark.parametrize(("extras", "refused"), [("cpu,gpu,rtx", True), ("gpu,cpu", True), ("gpu,rtx", False), ("cpu", False)])
def test_two_onnx_runtimes_are_refused(extras: str, refused: bool) -> None:
    done = subprocess.run(["make", "-n", "setup", f"EXTRAS={extras}"], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode != 0) is refused and ("two ONNX Runtimes" in done.stderr) is refused
