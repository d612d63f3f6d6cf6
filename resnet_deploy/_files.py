"""Files on disk: hashes, and writing that loses nothing."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from resnet_deploy.errors import BundleError, StorageError

if TYPE_CHECKING:
    from typing_extensions import Buffer

_ALIVE = ".lock"  # in a draft: whose holder still writes it
_BEGINS_S = 60.0  # longer than it takes from a draft to its lock
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.EISDIR}


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def regular(path: Path, most_bytes: int) -> int:
    """The size of a file that may be read whole.

    Raises:
        ValueError: it is no regular file (a folder, a pipe, a device), or larger than most_bytes.
        OSError: it is not there, or may not be read.
    """
    info = path.stat()
    if not stat.S_ISREG(info.st_mode):
        kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFCHR: "device", stat.S_IFSOCK: "socket"}
        raise ValueError(f"it is a {kinds.get(stat.S_IFMT(info.st_mode), 'device')}, not a file")
    if info.st_size > most_bytes:
        raise ValueError(f"it has {info.st_size:,} bytes, more than the {most_bytes:,} that are read")
    return info.st_size


@contextlib.contextmanager
def full_disk(path: Path) -> Iterator[None]:
    """Translate a disk that is full or broken into StorageError."""
    try:
        yield
    except OSError as exc:
        if exc.errno not in _FULL:
            raise
        raise StorageError(f"cannot write {path}: {exc.strerror}. Free some space and run the command again") from exc


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Translate every error of writing: StorageError for a full disk, BundleError where writing is refused."""
    try:
        with full_disk(path):
            yield
    except OSError as exc:
        if exc.errno in _REFUSED:
            raise BundleError(f"cannot write {path}: {exc.strerror}. Choose another output folder") from exc
        raise


def write_atomic(path: Path, data: bytes) -> None:
    """Write beside, flush to disk, rename: a reader sees the old bytes or the new, never half."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with writing(path):
            with beside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def write_hashed(path: Path, data: Buffer) -> str:
    """Write a file and hash what is written at the same time; returns the SHA-256."""
    with ThreadPoolExecutor(1) as pool:
        digest = pool.submit(lambda: hashlib.sha256(data).hexdigest())
        with writing(path):
            path.write_bytes(data)
        return digest.result()


@contextlib.contextmanager
def drafted(parent: Path, prefix: str) -> Iterator[Path]:
    """A folder for what is being written, gone when the block ends; what killed runs left of theirs is removed.

    A lock in it, which the kernel frees, tells the living from the dead.

    Args:
        parent: where the folder is made; it must exist.
        prefix: what its name begins with.

    Raises:
        BundleError: writing is refused.
        StorageError: the disk is full.
    """
    from filelock import FileLock

    with writing(parent):
        _sweep(parent, prefix)
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
    alive = FileLock(folder / _ALIVE)
    try:
        with writing(parent):
            alive.acquire(timeout=0)
        yield folder
    finally:
        alive.release()
        shutil.rmtree(folder, ignore_errors=True)


def _sweep(parent: Path, prefix: str) -> None:
    """Remove the drafts whose locks nobody holds."""
    from filelock import FileLock, Timeout

    for folder in parent.glob(f"{glob.escape(prefix)}*"):
        if folder.is_symlink() or not folder.is_dir():
            continue
        if not (folder / _ALIVE).is_file():  # killed before it had one, or while it was removed; or begun this moment
            if time.time() - folder.stat().st_mtime > _BEGINS_S:
                shutil.rmtree(folder, ignore_errors=True)
            continue
        lock = FileLock(folder / _ALIVE)
        with contextlib.suppress(Timeout, OSError):
            lock.acquire(timeout=0)
            shutil.rmtree(folder, ignore_errors=True)
            lock.release()


def flush(path: Path) -> None:
    """Wait until a file's bytes are on disk."""
    with writing(path), path.open("rb") as file:
        os.fsync(file.fileno())
