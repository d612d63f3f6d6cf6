"""Locks that the kernel frees when their holder dies: one writer of an output, and one large image at a time."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from resnet_deploy._files import writing
from resnet_deploy.errors import OutputError, StorageError

_HEADER = b"resnet-deploy embed: SHA-256 of the tables of bad images that were written here\n"
_MAX_BYTES = 1 << 20
_NOT_OURS = {errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENODEV}


class OutputLock:
    """The lock of an output, a file beside it that stays, and which tables of bad images were written under it.

    A table whose digest is not among them is the user's: no run may replace it.
    """

    def __init__(self, path: Path, output: Path) -> None:
        self.path, self._output = path, output
        self._descriptor: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            OutputError: another process has it, or what lies at its place is no lock of ours.
            BundleError, StorageError: the folder is not writable, the disk is full.
        """
        try:
            with writing(self._output):
                descriptor = self._open()
        except OSError as exc:
            raise OutputError(f"{self.path}: {exc.strerror}") from exc
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise self._refused()
            self._flock(descriptor)
            if not _HEADER.startswith((data := os.pread(descriptor, _MAX_BYTES, 0))[: len(_HEADER)]):
                raise self._refused()
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor, self._tables = descriptor, set(re.findall(rb"^[0-9a-f]{64}$", data, re.MULTILINE))

    def _open(self) -> int:
        try:
            return os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
        except OSError as exc:
            if exc.errno in _NOT_OURS:
                raise self._refused() from exc
            raise

    def _flock(self, descriptor: int) -> None:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OutputError(f"another process is writing {self._output}; wait for it to end") from None
        except OSError as exc:
            raise OutputError(f"{self.path} cannot be locked: {exc.strerror}. Choose a folder of another file system") from exc

    def _refused(self) -> OutputError:
        return OutputError(
            f"{self.path} is in the place of the output's lock and is none; move it away, or choose another output"
        )

    def release(self) -> None:
        """Give the lock back; nothing where it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def has_written(self, digest: str) -> bool:
        """Whether a table of this SHA-256 was written under this lock, by this run or an earlier one."""
        return digest.encode() in self._tables

    def record(self, digest: str) -> None:
        """Remember a table before it takes its name, so that no kill makes it a stranger."""
        if self.has_written(digest):
            return
        assert self._descriptor is not None
        with writing(self.path):
            size = os.lseek(self._descriptor, 0, os.SEEK_END)
            # What a power failure left of the last line must not swallow this one.
            start = b"\n" if size > len(_HEADER) else _HEADER[size:]
            os.write(self._descriptor, start + digest.encode() + b"\n")
            os.fsync(self._descriptor)
        self._tables.add(digest.encode())


@dataclass(frozen=True)
class InheritedLock:
    """A lock among processes that inherited one file. The file has no name, so nothing can lie in its place.

    Args:
        descriptor: of the file, the same number in every process.
    """

    descriptor: int

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Wait for the lock, and hold it in a `with` block. Raises StorageError where the file system has none."""
        try:
            fcntl.lockf(self.descriptor, fcntl.LOCK_EX)  # the process's own; flock's would be shared with the file
        except OSError as exc:
            raise StorageError(f"large images cannot be taken one at a time: {exc.strerror}") from exc
        try:
            yield
        finally:
            fcntl.lockf(self.descriptor, fcntl.LOCK_UN)


@dataclass(frozen=True)
class FolderLock:
    """A lock among processes of a machine that have nothing but a folder in common.

    Args:
        folder: is there and can be read; it is never written to.
    """

    folder: str

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Wait for the lock, and hold it in a `with` block; on a file system that has no such locks, without one."""
        descriptor = os.open(self.folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)  # also where a child has inherited the descriptor
            os.close(descriptor)
