"""Which images: a folder, a glob or a list, as a file of paths. A million of them take no more memory than a hundred."""

from __future__ import annotations

import errno
import glob
import hashlib
import heapq
import io
import itertools
import os
import stat
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from resnet_deploy._files import writing
from resnet_deploy.data.images import EXTENSIONS
from resnet_deploy.errors import DataError

_RUN = 50_000  # paths that are sorted in memory
_CHUNK = 1 << 16  # bytes that are read at a time; of every run, when they are merged
_LONGEST = 1 << 16  # of a path, bytes; Linux takes 4,096
_EXTENSIONS = tuple(name.encode() for name in EXTENSIONS)


@dataclass(frozen=True, kw_only=True)
class Listing:
    """Paths in a fixed order, in an unnamed file. sha256: of every path, size, time of writing and time of change."""

    file: IO[bytes]
    count: int
    sha256: str

    def __iter__(self) -> Iterator[bytes]:
        self.file.seek(0)
        return _split(self.file, b"\0", "the list of images")

    def batches(self, ranges: Iterable[tuple[int, int]], batch: int) -> Iterator[tuple[int, list[bytes]]]:
        """The paths of some ranges, at most `batch` at a time, each with the position of its first."""
        paths, at = iter(self), 0
        for start, stop in ranges:
            paths = itertools.islice(paths, start - at, None)
            for at in range(start, stop, batch):
                yield at, list(itertools.islice(paths, min(batch, stop - at)))
            at = stop


def list_images(source: str | Path, scratch: Path) -> Listing:
    """List a folder (all images in it, hidden ones aside) or a glob, sorted by path, or a file that has a path a line, or
    paths that end in NUL, in its order. Relative paths are the caller's.

    scratch: a folder for unnamed files. Raises DataError where there is no image, StorageError on a full disk.
    """
    with writing(scratch):
        file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 (the listing's own)
        digest, count = hashlib.sha256(), 0
        for path in _paths(str(source), scratch):
            file.write(path + b"\0")
            digest.update(b"%b\0%b\0" % (path, _state(path)))
            count += 1
        file.flush()
    if not count:
        raise DataError(f"{source} has no images ({', '.join(sorted(EXTENSIONS))})")
    return Listing(file=file, count=count, sha256=digest.hexdigest())


def _paths(source: str, scratch: Path) -> Iterator[bytes]:
    path = os.fsencode(source)
    if os.path.isdir(path):
        return _sorted(_walk(path), scratch)
    if source.lower().endswith(".npz"):
        raise DataError(f"{source}: embeddings are of image files; give a folder, a glob, or a file with a path a line")
    if os.path.exists(path):
        return iter([path]) if path.lower().endswith(_EXTENSIONS) else _listed(path)
    if glob.has_magic(path):
        return _sorted((match for match in glob.iglob(path, recursive=True) if not os.path.isdir(match)), scratch)
    if os.path.lexists(path):
        raise DataError(
            f"{source} is a link that leads nowhere, or to itself; give a folder, a glob, or a file with a path a line"
        )
    raise DataError(f"{source} does not exist; give a folder of images, a glob, or a file with a path a line")


def _walk(root: bytes) -> Iterator[bytes]:
    """All images below a folder, through links too; a link to a folder that it lies in is not followed."""
    waiting: list[tuple[bytes, tuple[tuple[int, int], ...]]] = [(root, ())]
    while waiting:
        folder, above = waiting.pop()
        try:
            own = os.stat(folder)
            if (own.st_dev, own.st_ino) in above:
                continue
            with os.scandir(folder) as entries:
                for entry in entries:
                    if entry.name.startswith(b"."):
                        continue
                    if _is_folder(entry):
                        waiting.append((entry.path, (*above, (own.st_dev, own.st_ino))))
                    elif entry.name.lower().endswith(_EXTENSIONS):
                        yield entry.path
        except OSError as exc:
            raise DataError(f"{os.fsdecode(folder)} cannot be read: {exc.strerror}") from exc


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError as exc:
        if exc.errno != errno.ELOOP:
            raise
        return False  # a link that leads to itself: under an image's name a bad image, else nothing


def _opened(path: bytes) -> io.BufferedReader:
    """A list's file. A pipe may be one; opening it does not wait for somebody to write."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISFIFO(mode):
        os.close(descriptor)
        raise DataError(f"{os.fsdecode(path)} is a device; give a folder, a glob, or a file with a path a line")
    os.set_blocking(descriptor, True)
    return open(descriptor, "rb")


def _listed(path: bytes) -> Iterator[bytes]:
    name = os.fsdecode(path)
    try:
        with _opened(path) as file:
            start = file.peek(_CHUNK)
            separator = b"\0" if b"\0" in start else b"\n"
            file.read(3 if start.startswith(b"\xef\xbb\xbf") else 0)
            for line in _split(file, separator, name):
                if line := line.removesuffix(b"\r") if separator == b"\n" else line:
                    yield line
    except OSError as exc:
        raise DataError(f"{name} cannot be read: {exc.strerror}") from exc


def _split(file: IO[bytes], separator: bytes, name: str) -> Iterator[bytes]:
    rest = b""
    while chunk := file.read(_CHUNK):
        *whole, rest = (rest + chunk).split(separator)
        if len(chunk) == _CHUNK and not any(whole) and not rest:
            raise DataError(f"{name} is no list of paths: {_CHUNK:,} bytes have none")
        yield from whole
        if len(rest) > _LONGEST:
            raise DataError(f"{name} is no list of paths: one is longer than {_LONGEST:,} bytes")
    if rest:
        yield rest


def _sorted(paths: Iterator[bytes], scratch: Path) -> Iterator[bytes]:
    """Sorted part by part, as pathlib sorts; in files, from which the runs are merged, where there are many."""
    runs: list[IO[bytes]] = []
    while run := sorted(itertools.islice(paths, _RUN), key=_key):
        if not runs and len(run) < _RUN:
            return iter(run)
        file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 (read to its end, then dropped)
        file.write(b"".join(path + b"\0" for path in run))
        file.seek(0)
        runs.append(file)
    return heapq.merge(*(_split(file, b"\0", "the list of images") for file in runs), key=_key)


def _key(path: bytes) -> bytes:
    return path.replace(b"/", b"\0")  # a folder's images before those of a folder whose name goes on


def _state(path: bytes) -> bytes:
    """What tells that an image is another one."""
    try:
        state = os.stat(path)
    except OSError:
        return b"absent"
    # The time of change cannot be set, so that other content under the same size and time of writing is seen. The inode is
    # not part of it: some network file systems number them anew with every mount.
    times = (state.st_size, state.st_mtime_ns, state.st_ctime_ns)
    return b"%d %d %d" % times if stat.S_ISREG(state.st_mode) else b"no file"
