"""The command line in processes of their own."""

from __future__ import annotations

import shutil
import subprocess
import sys

import pytest

from tests.helpers.paths import ROOT

COMMAND = [sys.executable, str(ROOT / "cli.py")]


def in_namespace(script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script where it may mount file systems that nobody else sees."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], capture_output=True).returncode:
        pytest.skip("namespaces of our own are not permitted here")
    return subprocess.run(["unshare", "-rm", "sh", "-ec", script], capture_output=True, text=True)
