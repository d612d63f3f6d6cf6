"""How commands end: a result on standard output, failures on standard error, an exit code."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import click

from resnet_deploy.errors import EXIT_GATE


def fail(message: str, code: int) -> None:
    """Say why, and leave with the exit code."""
    click.echo(f"Error: {message}", err=True)
    sys.exit(code)


def show(value: Any, text: Callable[[], str], as_json: bool) -> None:
    """A command's result: one JSON object, or text."""
    click.echo(json.dumps(value, indent=1) if as_json else text())


def given_of(options: dict[str, Any]) -> dict[str, Any]:
    """Without what was left to its default."""
    return {name: value for name, value in options.items() if value is not None}


def judge(failures: list[str], code: int = EXIT_GATE) -> None:
    """Say each failure once, and leave with the exit code."""
    for failure in dict.fromkeys(failures):
        click.echo(f"FAILED {failure}", err=True)
    if failures:
        sys.exit(code)
