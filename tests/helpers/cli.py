"""The command line, called in this process."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from resnet_deploy.cli import main

FAST = ("--duration", "0.05", "--batch", "1,2", "--threads", "1")


def run(*args: str | Path) -> Result:
    """A command's end: its exit code and what it printed."""
    return CliRunner().invoke(main, [str(arg) for arg in args])


def fails(code: int, *args: str | Path) -> str:
    """The message of a command that ends with this exit code; a traceback is never one."""
    done = run(*args)
    assert done.exit_code == code, (done.exit_code, done.stdout, done.stderr, done.exception)
    assert done.exception is None or isinstance(done.exception, SystemExit)
    assert "Traceback" not in done.stderr and done.stderr.strip()
    return done.stderr


def load(done: Result) -> Any:
    """The JSON of a command that succeeded."""
    assert done.exit_code == 0, (done.stderr, done.exception)
    return json.loads(done.stdout)
