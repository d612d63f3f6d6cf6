"""Files that are told from damaged or edited ones: hashed while they are written, checked when they are read."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from resnet_deploy._files import writing
from resnet_deploy.errors import StorageError

SEAL = "resnet_deploy.sha256"  # of a Parquet file, in its own metadata
UNSEALED = "0" * 64  # in its place while the file is hashed
_CHUNK = 1 << 20
_MAGIC = b"PAR1"


class HashedFile:
    """A file that is hashed while it is written, and takes its name once all of it is on disk.

    Args:
        path: where it lies until then. What lies there is removed first.
        prefix: is hashed before the first byte, and not written.
    """

    def __init__(self, path: Path, prefix: bytes = b"") -> None:
        self._path = path
        path.unlink(missing_ok=True)
        self._file = path.open("xb+")
        self._digest = hashlib.sha256(prefix)

    def write(self, data: bytes) -> int:
        """Append bytes."""
        self._digest.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        """Hand what was written to the system."""
        self._file.flush()

    @property
    def closed(self) -> bool:
        return self._file.closed

    @property
    def sha256(self) -> str:
        """Of the prefix and of what was written so far."""
        return self._digest.hexdigest()

    def seal(self) -> None:
        """Put the hash of a whole Parquet file into its metadata, which have SEAL: UNSEALED."""
        self._file.flush()
        place = _seal_of(self._file)
        assert place is not None and place.recorded == UNSEALED
        self._file.seek(place.offset)
        self._file.write(self.sha256.encode())

    def rename(self, path: Path) -> None:
        """Wait until the file is on disk, and give it its name."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._path.replace(path)

    def close(self) -> None:
        """Close it, whatever was written."""
        self._file.close()


@contextlib.contextmanager
def hashed_file(path: Path, target: Path, prefix: bytes = b"") -> Iterator[HashedFile]:
    """A HashedFile that is closed at the end. target: the file that a message of a full disk names."""
    try:
        with writing(target), contextlib.closing(HashedFile(path, prefix)) as file:
            yield file
    except FileNotFoundError as exc:
        raise gone(path.parent) from exc


def gone(folder: Path) -> StorageError:
    """The error for a folder that somebody removed while it was in use."""
    return StorageError(f"{folder} was removed, or files in it were, while a run used it. Run the command again")


class Seal(NamedTuple):
    """Where a Parquet file's hash stands in it, and what it says."""

    offset: int
    recorded: str


def sealed(path: Path) -> bool | None:
    """Whether a Parquet file is what was sealed, to the byte; None where it has no seal."""
    with path.open("rb") as file:
        seal = _seal_of(file)
        if seal is None:
            return None
        digest = hashlib.sha256()
        file.seek(0)
        for length in (seal.offset, -1):
            while length and (chunk := file.read(_CHUNK if length < 0 else min(_CHUNK, length))):
                digest.update(chunk)
                length -= len(chunk) if length > 0 else 0
            if length == 0:
                digest.update(UNSEALED.encode())
                file.seek(len(UNSEALED), os.SEEK_CUR)
        return digest.hexdigest() == seal.recorded


def _seal_of(file: IO[bytes]) -> Seal | None:
    """Found in the bytes of the metadata, not by Parquet's reader: they may be damaged."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 8))
    tail = file.read(8)
    length = int.from_bytes(tail[:4], "little")
    if tail[4:] != _MAGIC or length > size - 8:
        return None
    start = size - 8 - length
    file.seek(start)
    footer = file.read(length)
    at = footer.rfind(SEAL.encode()) + len(SEAL)
    # Thrift: the type of the next field and the length of its text, one byte each.
    match = re.compile(rb"..([0-9a-f]{64})", re.DOTALL).match(footer, at)
    return None if at < len(SEAL) or match is None else Seal(offset=start + match.start(1), recorded=match[1].decode())
