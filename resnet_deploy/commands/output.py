"""How commands end: a result on standard output, failures on standard error, an exit code. All that they print goes through
`say`."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NoReturn, TextIO, TypeVar

from resnet_deploy.errors import EXIT_GATE, DeployError, StorageError
from resnet_deploy.terminal.visible import visible

T = TypeVar("T")


def prepare_streams() -> None:
    """Make standard streams usable: one that was closed is the null device, and what an encoding lacks is spelled out.

    A closed descriptor would be taken by the next file that is opened, and a runtime's message would land in that file.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            if os.open(os.devnull, os.O_RDWR) != number:
                continue
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, "r" if number == 0 else "w", closefd=False))  # noqa: SIM115
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


_results: list[TextIO] = []  # where results go; standard output where it is empty


@contextlib.contextmanager
def results_alone(*, own_process: bool) -> Iterator[None]:
    """Keep standard output for results: what libraries print meanwhile goes to standard error.

    own_process: what they print by its descriptor, past Python, goes there too, until the process has ended.
    """
    before = sys.stdout
    _results.append(_moved(before) if own_process else before)
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        if not own_process:
            sys.stdout = before
            _results.pop()


def _moved(stream: TextIO) -> TextIO:
    """Standard output under another descriptor; its own leads to standard error."""
    stream.flush()
    moved = open(os.dup(1), "w", encoding=stream.encoding, errors="backslashreplace")  # noqa: SIM115, PTH123
    os.dup2(2, 1)
    return moved


def say(text: str, *, err: bool = False) -> None:
    """Print a line or more, control characters spelled out. A reader that went away, as in `| head`, is no error.

    Raises:
        StorageError: standard output cannot be written, as on a full disk.
    """
    stream = sys.stderr if err else _results[-1] if _results else sys.stdout
    try:
        stream.write(visible(text) + "\n")
        stream.flush()
    except BrokenPipeError:
        discard(stream)
    except OSError as exc:
        discard(stream)
        if not err:
            raise StorageError(f"cannot write the results to standard output: {exc.strerror}") from exc


def discard(stream: TextIO) -> None:
    """Send what a stream still holds, and what comes, nowhere: it would fail once more when the program ends."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
    except OSError:
        pass


def warn(text: str) -> None:
    """A warning, in one line."""
    say(f"Warning: {visible(text, lines=False)}", err=True)


def complain(text: str) -> None:
    """An error, in one line."""
    say(f"Error: {visible(text, lines=False)}", err=True)


def fail(message: str, code: int) -> NoReturn:
    """Say why, and leave with the exit code."""
    complain(message)
    sys.exit(code)


def show(value: Any, text: Callable[[], str], as_json: bool) -> None:
    """A command's result: one JSON object, or text."""
    say(_json(value) if as_json else text())


def _json(value: Any) -> str:
    try:
        return json.dumps(value, indent=1, allow_nan=False)
    except ValueError:  # JSON has no word for NaN and infinity
        from resnet_deploy._figures import spell

        return json.dumps(spell(value), indent=1)


def attempt(call: Callable[[], T]) -> tuple[T, DeployError | None]:
    """What a call returns, and None; or what it had found before it failed to store that, and its error.

    Raises:
        DeployError: of a call that found nothing.
    """
    try:
        return call(), None
    except DeployError as exc:
        if exc.result is None:
            raise
        return exc.result, exc


def without_defaults(options: dict[str, Any]) -> dict[str, Any]:
    """Without what was left to its default: None, and of an option that may be repeated nothing."""
    return {name: value for name, value in options.items() if value not in (None, ())}


def exit_on_failures(failures: Iterable[str], code: int = EXIT_GATE, *, error: DeployError | None = None) -> None:
    """Say each failure once, and that the results could not be stored; leave with an exit code where there is any of these.

    code: of failures, which goes before that of the error: whether a gate failed is what was asked.
    """
    once = list(dict.fromkeys(failures))
    for failure in once:
        say(f"FAILED {visible(failure, lines=False)}", err=True)
    if error is not None:
        complain(str(error))
    if once:
        sys.exit(code)
    if error is not None:
        sys.exit(error.exit_code)
