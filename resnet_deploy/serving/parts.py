"""An output that grows in parts: each is whole or absent, so that a run that is killed at any moment goes on later.

Beside OUTPUT.parquet, while it is being made, lies the folder OUTPUT.parquet.parts: the request, and a file for each range of
positions that is done. When all are, they become one file. The names of the parts are the journal.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from resnet_deploy._deps import require
from resnet_deploy._files import write_atomic, writing
from resnet_deploy.bundle.codec import key_of
from resnet_deploy.errors import OutputError
from resnet_deploy.serving.tables import bad_rows, write_bad, write_good, write_table

SCHEMA_VERSION = 1
_METADATA = b"resnet_deploy"
_REQUEST = "request.json"
_PART = re.compile(r"(\d{12})-(\d{12})\.parquet")
_SPOILED = (OSError, ValueError, KeyError, TypeError)  # of a file that is not what it should be


class Output:
    """The output and its parts; locked while in use, in a `with` block.

    Raises OutputError for a file of something else, one that another process writes, or a folder that is not writable.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.bad_path = path, path.with_suffix(".bad.csv")
        self.parts = path.with_name(f"{path.name}.parts")
        self._lock = FileLock(path.with_name(f".{path.name}.lock"))
        self._request: dict[str, Any] = {}

    def __enter__(self) -> Output:
        if self.path.suffix != ".parquet":
            raise OutputError(f"{self.path}: embeddings are written as Parquet; name the output something.parquet")
        if not self.path.parent.is_dir():
            raise OutputError(f"{self.path.parent} is no folder; make it first, or choose another")
        if self.path.is_dir():
            raise OutputError(f"{self.path} is a folder; name a file in it")
        try:
            with writing(self.path):
                self._lock.acquire(timeout=0)
        except Timeout:
            raise OutputError(f"another process is writing {self.path}; wait for it to end") from None
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def open(self, request: Mapping[str, Any], *, overwrite: bool) -> dict[str, Any] | None:
        """What is known of the output where this very request has made it; else None, and parts can be added.

        overwrite: what another request made is replaced; an output stays until its successor is whole.
        """
        self._request = dict(request)
        if self.path.exists() and not overwrite:
            found = self._about()
            self._compare(self.path, found["request"])
            self._drop_parts()  # left by a run that was killed after its last rename
            return found
        with writing(self.parts):
            known = self._started()
            if known is not None and known != self._request:
                if not overwrite:
                    self._compare(self.parts, known)
                self._drop_parts()
            self.parts.mkdir(exist_ok=True)
            for stray in self.parts.glob(".*"):
                stray.unlink()
            write_atomic(self.parts / _REQUEST, json.dumps(self._request, indent=1).encode())
        return None

    def done(self) -> list[tuple[int, int]]:
        """The ranges of positions that are on disk, in order. A part that a failing disk spoiled is dropped."""
        pq, found = require("pyarrow.parquet", extra="parquet"), []
        for file in sorted(self.parts.iterdir()):
            if name := _PART.fullmatch(file.name):
                start, stop = int(name[1]), int(name[2])
                try:
                    about = pq.read_metadata(file)
                    whole = about.num_rows == stop - start and about.metadata[_METADATA].decode() == self._key
                except _SPOILED:
                    whole = False
                if whole:
                    found.append((start, stop))
                else:
                    file.unlink()
        return found

    def write(self, start: int, table: Any) -> None:
        """Add a part: the rows from position `start` on."""
        with self._whole(self.parts / f"{start:012}-{start + len(table):012}.parquet") as file:
            write_table(file, table, {_METADATA: self._key})

    def first_bad(self) -> tuple[str, str] | None:
        """Path and reason of the first bad image so far."""
        return next((row for table in self._tables() for row in bad_rows(table)), None)

    def finish(self) -> dict[str, Any]:
        """Make one file of the parts, and a table of the bad images where there are any; returns what is known of them.

        Where all are bad there is no output, and the parts are gone: the images can be mended and embedded anew.
        """
        with self._whole(self.bad_path) as file:
            bad = write_bad(file, self._tables())
        about = {"request": self._request, "images": self._request["images"]["count"], "bad": bad}
        if not bad:
            self.bad_path.unlink()
        if bad < about["images"]:
            with self._whole(self.path) as file:
                write_good(file, self._tables(), {_METADATA: json.dumps(about)})
        self._drop_parts()
        return about

    @property
    def _key(self) -> str:
        return key_of(**self._request)

    @contextlib.contextmanager
    def _whole(self, path: Path) -> Iterator[IO[bytes]]:
        """A file that takes its name once all of it is on disk; until then it is a stray one among the parts."""
        beside = self.parts / f".{path.name}"
        with writing(path):
            with beside.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)

    def _tables(self) -> Iterator[Any]:
        pq = require("pyarrow.parquet", extra="parquet")
        for start, stop in self.done():
            yield pq.read_table(self.parts / f"{start:012}-{stop:012}.parquet")

    def _about(self) -> dict[str, Any]:
        pq = require("pyarrow.parquet", extra="parquet")
        try:
            return dict(json.loads(pq.read_metadata(self.path).metadata[_METADATA]))
        except _SPOILED:
            raise OutputError(f"{self.path} is there, and is no output of `embed`; --overwrite replaces it") from None

    def _started(self) -> dict[str, Any] | None:
        """The request of the parts; None where there are none, empty where it cannot be read."""
        try:
            return dict(json.loads((self.parts / _REQUEST).read_bytes()))
        except FileNotFoundError:
            return None
        except _SPOILED:
            return {}

    def _compare(self, path: Path, known: Mapping[str, Any]) -> None:
        """Raise OutputError where something was made by another request, with what differs."""
        if (version := known.get("schema_version")) != SCHEMA_VERSION:
            raise OutputError(
                f"{path} has schema version {version}, this resnet-deploy reads {SCHEMA_VERSION}. Use the version that made "
                "it, or start anew with --overwrite"
            )
        then, now = dict(_leaves(known)), dict(_leaves(self._request))
        changed = [
            f"{name} {then.get(name)} then, {now.get(name)} now" for name in {**then, **now} if then.get(name) != now.get(name)
        ]
        if changed:
            raise OutputError(
                f"{path} was made by another request ({'; '.join(changed)}). Choose another output, or start anew with "
                "--overwrite"
            )

    def _drop_parts(self) -> None:
        """The request goes last: while there is a part, it says whose."""
        if self.parts.is_dir():
            for file in self.parts.glob("*.parquet"):
                file.unlink()
            shutil.rmtree(self.parts)


def _leaves(request: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and values, hashes shortened, as a message has them."""
    for name, value in request.items():
        if isinstance(value, Mapping):
            yield from ((f"{name} {inner}", text) for inner, text in _leaves(value))
        else:
            yield name, str(value)[:16]
