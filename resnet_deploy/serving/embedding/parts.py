"""The parts of an output: each is whole or absent, so that a run that is killed at any moment goes on later.

Beside OUTPUT.parquet, while it is being made, lies the folder OUTPUT.parquet.parts: the request, and a file for each range of
positions that is done, named after the range and a checksum. When all are there, they become one file. Nothing is deleted that
does not bear such a name, and nothing through a link.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from resnet_deploy import _json
from resnet_deploy._deps import require
from resnet_deploy._files import writing
from resnet_deploy.errors import OutputError, StorageError
from resnet_deploy.serving.embedding.checksums import HashedFile, gone, hashed_file
from resnet_deploy.serving.embedding.request import (
    SCHEMA_VERSION,
    Damaged,
    EmbedRequest,
    OtherVersion,
    StoredRequest,
    read_request,
)
from resnet_deploy.serving.embedding.tables import write_table

REQUEST = "request.json"
_PART = re.compile(r"(\d{12})-(\d{12})\.([0-9a-f]{32})\.parquet")
_UNFINISHED = ".{}.unfinished"
# The second kind of part is that of version 1.
_OURS = re.compile(rf"request\.json|{_PART.pattern}|\.?\d{{12}}-\d{{12}}\.parquet|\.(request|part|table|output)\.unfinished")
_MAX_REQUEST_BYTES = 1 << 20


class SpoiledPart(StorageError):
    """A part that is no longer what was written; it has been dropped, and can be computed again."""


class Part(NamedTuple):
    """Rows of the positions from `start` to before `stop`, in a file."""

    start: int
    stop: int
    path: Path


class Parts:
    """The folder of parts of an output. The output's lock is held.

    Attributes:
        warnings: what was damaged, and what becomes of it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.warnings: list[str] = []
        self._request: EmbedRequest

    def open(self, request: EmbedRequest, *, overwrite: bool) -> None:
        """Make the folder this request's: go on with what an earlier run of it left, or begin.

        Args:
            overwrite: drop the parts of another request, or of a damaged one.

        Raises:
            OutputError: the folder is another request's, or is not one of `embed`'s.
        """
        self._request = request
        with writing(self.path):
            names = self._own_names()
            stored = self._stored() if names is not None else None
            if names and not self._continues(stored):
                self._refuse(stored, overwrite=overwrite)
                self.drop()
            self.path.mkdir(exist_ok=True)
            for name in names or ():
                if name.startswith("."):
                    (self.path / name).unlink(missing_ok=True)
        if not isinstance(stored, StoredRequest) or stored.request != request:
            content = StoredRequest(request=request, sha256=request.key)
            with self.unfinished("request", self.path / REQUEST) as file:
                file.write(_json.encode(content))
                file.rename(self.path / REQUEST)

    def ranges(self) -> list[tuple[int, int]]:
        """The ranges of positions that are on disk, in order. What is not as it was written is dropped, with a warning."""
        kept: list[tuple[int, int]] = []
        spoiled = 0
        for part in self._parts():
            edge = kept[-1][1] if kept else 0
            if edge <= part.start < part.stop <= self._request.images.count and self._read(part) is not None:
                kept.append((part.start, part.stop))
            else:
                self._discard(part)
                spoiled += 1
        if spoiled:
            self.warnings.append(
                f"{spoiled} of {spoiled + len(kept)} parts in {self.path} were not what an earlier run had written; their "
                "images were computed again. Check the disk"
            )
        return kept

    def add(self, start: int, table: Any) -> None:
        """Add a part: the rows from position `start` on."""
        stop = start + len(table)
        with self.unfinished("part", self.path, self._prefix(start, stop)) as file:
            write_table(file, table)
            file.rename(self.path / f"{start:012}-{stop:012}.{file.sha256[:32]}.parquet")

    def tables(self) -> Iterator[Any]:
        """The tables of the parts that are there, in order. Raises SpoiledPart for one that is no longer what was written."""
        pa, pq = require("pyarrow", extra="parquet"), require("pyarrow.parquet", extra="parquet")
        for part in self._parts():
            data = self._read(part)
            if data is None:
                self._discard(part)
                self.warnings.append(f"{part.path} was not what this run had written; its images were computed again")
                raise SpoiledPart(f"{part.path} is not what was written, again and again. Choose a folder on another disk")
            yield pq.read_table(pa.BufferReader(data))

    def check_complete(self) -> None:
        """Raise SpoiledPart where positions are in no part."""
        edge = 0
        for part in [*self._parts(), Part(self._request.images.count, 0, self.path)]:
            if part.start != edge:
                self.warnings.append(f"a part in {self.path} was removed while the run used it; its images were computed again")
                raise SpoiledPart(f"parts in {self.path} are removed, again and again. End what removes them")
            edge = part.stop

    def unfinished(self, role: str, target: Path, prefix: bytes = b"") -> contextlib.AbstractContextManager[HashedFile]:
        """A file that lies here until it takes its name; see HashedFile."""
        return hashed_file(self.path / _UNFINISHED.format(role), target, prefix)

    def drop(self) -> None:
        """Remove the folder: the parts first, then the request, so that while there is a part it says whose. What is not ours
        stays, and the folder with it."""
        names = self._entries()
        with writing(self.path):
            for name in sorted(names, key=lambda name: name == REQUEST):
                (self.path / name).unlink()
            with contextlib.suppress(OSError):
                self.path.rmdir()

    def drop_leftover(self, request: EmbedRequest) -> None:
        """Remove what a run of a request left that was killed after its output was whole; nothing where it is not that."""
        try:
            names = self._own_names()
        except OutputError:
            return
        if names is None:
            return
        stored = self._stored()
        if not names or (isinstance(stored, StoredRequest) and stored.request == request):
            self.drop()

    def _entries(self) -> list[str]:
        """Names in the folder that are ours, and of regular files."""
        try:
            with os.scandir(self.path) as entries:
                regular = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
        except FileNotFoundError as exc:
            raise gone(self.path) from exc
        return sorted(name for name in regular if _OURS.fullmatch(name))

    def _own_names(self) -> list[str] | None:
        """Names in the folder, None where there is none. Raises OutputError where one is not ours."""
        if not os.path.lexists(self.path):
            return None
        if self.path.is_symlink() or not self.path.is_dir():
            raise OutputError(
                f"{self.path} is not a folder of ours, where the parts would lie; move it, or choose another output"
            )
        strangers = sorted({entry.name for entry in self.path.iterdir()} - set(self._entries()))
        if strangers:
            raise OutputError(
                f"{self.path} has {strangers[0]}, which `embed` did not write. Move it out of that folder, or choose another "
                "output"
            )
        return self._entries()

    def _stored(self) -> StoredRequest | OtherVersion | Damaged | None:
        """What the request's file says; None where there is none."""
        try:
            with (self.path / REQUEST).open("rb") as file:
                return read_request(file.read(_MAX_REQUEST_BYTES))
        except FileNotFoundError:
            return None
        except OSError as exc:
            return Damaged(reason=str(exc.strerror), ours=False)

    def _continues(self, stored: StoredRequest | OtherVersion | Damaged | None) -> bool:
        """Whether what is in the folder is this very request's."""
        if isinstance(stored, StoredRequest):
            return stored.request == self._request
        if not any(name[0].isdigit() for name in self._entries()):  # nothing to lose
            return stored is None or (isinstance(stored, Damaged) and stored.ours)
        if not any(self._read(part) is not None for part in self._parts()):
            return False
        reason = "missing" if stored is None else "changed or damaged"
        self.warnings.append(
            f"{self.path / REQUEST} was {reason}. The parts are this request's nonetheless, by their checksums, and were kept"
        )
        return True

    def _refuse(self, stored: StoredRequest | OtherVersion | Damaged | None, *, overwrite: bool) -> None:
        """Raise OutputError for a folder that is not to be dropped."""
        if stored is None or (isinstance(stored, Damaged) and not stored.ours):
            reason = "is missing" if stored is None else f"is no request of `embed`: {stored.reason}"
            raise OutputError(f"{self.path / REQUEST} {reason}. Move {self.path} away, or choose another output")
        if overwrite:
            return
        if isinstance(stored, Damaged):
            raise OutputError(
                f"{self.path / REQUEST} was changed or damaged: {stored.reason}. So it is not known whose the parts are; start "
                "anew with --overwrite, or choose another output"
            )
        raise another_request(self.path, stored, self._request)

    def _parts(self) -> list[Part]:
        matches = [match for name in self._entries() if (match := _PART.fullmatch(name))]
        return [Part(int(match[1]), int(match[2]), self.path / match[0]) for match in matches]

    def _discard(self, part: Part) -> None:
        with writing(self.path):
            part.path.unlink(missing_ok=True)

    def _prefix(self, start: int, stop: int) -> bytes:
        return f"{SCHEMA_VERSION} {self._request.key} {start}-{stop}\n".encode()

    def _read(self, part: Part) -> bytes | None:
        """A part's bytes; None where they are not those that this request wrote for this range."""
        try:
            data = part.path.read_bytes()
        except OSError:
            return None
        digest = hashlib.sha256(self._prefix(part.start, part.stop))
        digest.update(data)
        return data if part.path.name.split(".")[1] == digest.hexdigest()[:32] else None


def another_request(path: Path, stored: StoredRequest | OtherVersion | EmbedRequest, request: EmbedRequest) -> OutputError:
    """The error for what another request, or another version, has made."""
    if isinstance(stored, OtherVersion):
        return OutputError(
            f"{path} has schema version {stored.schema_version}, this resnet-deploy reads {SCHEMA_VERSION}. Use the "
            "version that made it, or start anew with --overwrite"
        )
    earlier = stored.request if isinstance(stored, StoredRequest) else stored
    return OutputError(
        f"{path} was made by another request ({'; '.join(request.differences(earlier))}). Choose another output, or start anew "
        "with --overwrite"
    )
