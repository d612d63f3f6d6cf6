"""The output of `embed`, its table of bad images and its parts: checksums tell what is ours, and the rest is left alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from resnet_deploy import _json
from resnet_deploy._deps import require
from resnet_deploy._files import sha256_file, writing
from resnet_deploy.errors import OutputError
from resnet_deploy.serving.embedding.checksums import sealed
from resnet_deploy.serving.embedding.locks import OutputLock
from resnet_deploy.serving.embedding.parts import Parts, another_request
from resnet_deploy.serving.embedding.request import Damaged, EmbedRequest, OtherVersion, Summary, read_summary
from resnet_deploy.serving.embedding.tables import bad_rows, write_bad, write_good

_METADATA = b"resnet_deploy"


class Output:
    """An output, locked while in use, in a `with` block.

    Raises OutputError for a file of something else, one that another process writes, or a folder that is not writable.

    Attributes:
        path: of the Parquet file.
        bad_path: of the table of bad images.
        parts: what is done so far.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.bad_path = path, path.with_suffix(".bad.csv")
        self.parts = Parts(path.with_name(f"{path.name}.parts"))
        self._lock = OutputLock(path.with_name(f".{path.name}.lock"), path)
        self._request: EmbedRequest
        self._replaced_table: str | None = None  # SHA-256 of the one that the output to be replaced is proven to have

    def __enter__(self) -> Output:
        if self.path.suffix != ".parquet":
            raise OutputError(f"{self.path}: embeddings are written as Parquet; name the output something.parquet")
        if not self.path.parent.is_dir():
            raise OutputError(f"{self.path.parent} is no folder; make it first, or choose another")
        if self.path.is_dir() and not self.path.is_symlink():
            raise OutputError(f"{self.path} is a folder; name a file in it")
        _check_regular(self.path)
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def open(self, request: EmbedRequest, *, overwrite: bool) -> Summary | None:
        """What is known of the output where this very request has made it; else None, and parts can be added.

        Args:
            request: what the output is to be made from.
            overwrite: what another request made is replaced; an output stays until its successor is whole.

        Raises:
            OutputError: the output, its table of bad images or its parts are another request's, are not what was written, or
                are not ours.
        """
        self._request = request
        if self.path.exists():
            if not overwrite:
                summary = self._complete()
                self.parts.drop_leftover(request)
                return summary
            try:
                self._replaced_table = self._summary().bad_table_sha256
            except OutputError:  # it is to be replaced, whatever it is
                self._replaced_table = None
        self._check_table_is_ours()
        self.parts.open(request, overwrite=overwrite)
        return None

    def first_bad(self) -> tuple[str, str] | None:
        """Path and reason of the first bad image so far."""
        return next((row for table in self.parts.tables() for row in bad_rows(table)), None)

    def finish(self) -> Summary:
        """Make one file of the parts, and a table of the bad images where there are any; returns what is known of them.

        Where all are bad there is no output, and the parts are gone: the images can be mended and embedded anew.

        Raises:
            SpoiledPart: a part is no longer what was written; it has been dropped, and nothing else has changed.
        """
        with self.parts.unfinished("table", self.bad_path) as table:
            self.parts.check_complete()
            bad = write_bad(table, self.parts.tables())
            summary = Summary(
                request=self._request, images=self._request.images.count, bad=bad,
                bad_table_sha256=table.sha256 if bad else None,
            )  # fmt: skip
            with self.parts.unfinished("output", self.path) as output:
                if bad < summary.images:
                    write_good(output, self.parts.tables(), {_METADATA: _json.encode(summary, indent=None)})
                self._check_table_is_ours()
                if bad:
                    self._lock.record(table.sha256)
                    table.rename(self.bad_path)
                else:
                    self.bad_path.unlink(missing_ok=True)
                if bad < summary.images:
                    output.rename(self.path)
        self.parts.drop()
        return summary

    def _complete(self) -> Summary:
        """What the output says of itself, where this very request has made it and it is what was written."""
        summary = self._summary()
        if summary.request != self._request:
            raise another_request(self.path, summary.request, self._request)
        if summary.bad_table_sha256 is not None:
            if not self.bad_path.is_file():
                reason = "is missing"
            elif sha256_file(self.bad_path) != summary.bad_table_sha256:
                reason = "is not what was written"
            else:
                return summary
            raise OutputError(
                f"{self.bad_path}, the table of the {summary.bad:,} bad images of {self.path}, {reason}. Put it back, choose "
                "another output, or make both anew with --overwrite, for which a table that was changed must be moved away"
            )
        return summary

    def _summary(self) -> Summary:
        """What the output says of itself. Raises OutputError where it is not what `embed` wrote."""
        pq = require("pyarrow.parquet", extra="parquet")
        whole = sealed(self.path)
        if whole is False:
            raise OutputError(
                f"{self.path} was changed or damaged after `embed` had written it: its bytes do not have the SHA-256 that it "
                "records. Choose another output, or make it anew with --overwrite"
            )
        try:
            data = bytes(pq.read_metadata(self.path).metadata[_METADATA])
        except Exception as exc:  # Arrow has a dozen kinds for what is no Parquet file
            raise OutputError(
                f"{self.path}, damaged or of another program, is no output of `embed`; --overwrite replaces it"
            ) from exc
        summary = read_summary(data)
        if isinstance(summary, OtherVersion):
            raise another_request(self.path, summary, self._request)
        if whole is None or isinstance(summary, Damaged):
            reason = summary.reason if isinstance(summary, Damaged) else "its SHA-256 is missing"
            raise OutputError(
                f"{self.path} was changed after `embed` had written it: {reason}. Choose another output, or make it anew with "
                "--overwrite"
            )
        return summary

    def _check_table_is_ours(self) -> None:
        """Raise OutputError where a table of bad images would replace what `embed` did not write."""
        if not os.path.lexists(self.bad_path):
            return
        _check_regular(self.bad_path)
        digest = sha256_file(self.bad_path)
        if digest != self._replaced_table and not self._lock.has_written(digest):
            raise OutputError(
                f"{self.bad_path} would be replaced by the table of bad images, and is not what `embed` wrote. Move it away, "
                "or choose another output"
            )


def _check_regular(path: Path) -> None:
    """Raise OutputError for a link, which would be replaced or followed, and for a device or a pipe."""
    with writing(path):
        if not os.path.lexists(path):
            return
        mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        raise OutputError(f"{path} is a symbolic link; give the file that it leads to, or choose another output")
    if not stat.S_ISREG(mode):
        raise OutputError(f"{path} is no regular file; choose another output")
