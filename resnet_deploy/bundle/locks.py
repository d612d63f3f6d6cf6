"""Who may write to a bundle: its lock, which the kernel frees when its holder dies, and who holds it."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from filelock import FileLock, Timeout
from msgspec import Meta, Struct

from resnet_deploy import _json
from resnet_deploy._files import writing
from resnet_deploy.bundle.codec import now
from resnet_deploy.bundle.names import LOCK, WRITER
from resnet_deploy.errors import BundleError

WAIT_S = 60.0  # for another writer; a change is written in seconds, since long work holds no lock


class Writer(Struct, frozen=True, kw_only=True):
    """The process that holds the lock."""

    pid: int
    command: Annotated[str, Meta(max_length=100_000)]
    since: Annotated[str, Meta(max_length=40)]


def running_command() -> str:
    """The command that is running, as a shell takes it."""
    program = Path(sys.argv[0]).name
    return shlex.join(["resnet-deploy" if program == "cli.py" else program, *sys.argv[1:]])


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a bundle's lock; another writer is waited for.

    Raises:
        BundleError: it was not free within `WAIT_S`, with the command that holds it; or the folder cannot be written.
    """
    lock = FileLock(path / LOCK)
    try:
        with writing(path):
            lock.acquire(timeout=WAIT_S)
    except Timeout:
        raise BundleError(f"another process is writing to {path}{_holder(path)}; wait for it to end") from None
    try:
        with contextlib.suppress(OSError):  # who it is serves a message alone
            (path / WRITER).write_bytes(_json.encode(Writer(pid=os.getpid(), command=running_command(), since=now())))
        yield
    finally:
        with contextlib.suppress(OSError):
            (path / WRITER).unlink()
        lock.release()


def _holder(path: Path) -> str:
    try:
        writer = _json.decode((path / WRITER).read_bytes(), Writer)
    except (OSError, ValueError):
        return ""
    return f" (process {writer.pid}, since {writer.since}: {writer.command})"
