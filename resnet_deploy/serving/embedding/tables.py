"""Answers as Arrow tables, and tables as Parquet files."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from resnet_deploy._deps import require
from resnet_deploy._text import text_of
from resnet_deploy.errors import UsageError
from resnet_deploy.serving.embedding.checksums import SEAL, UNSEALED, HashedFile
from resnet_deploy.specs import TensorSpec

GROUP_BYTES = 64 << 20  # of answers, in a part and in a row group
LABELS = "topk_labels"
NOT_FINITE = "the model answers NaN or Inf"


class Answers:
    """A model's answers for images by position, as they come, and as tables.

    Columns: path; each output as a fixed-size list of float32 or int64; topk_labels, the classes' names, where they are
    known; reason, null for a good image, whose answers alone are not null.
    """

    def __init__(self, outputs: Sequence[TensorSpec], class_names: Sequence[str] | None) -> None:
        self._dtypes = {spec.name: _dtype(spec.dtype) for spec in outputs}
        self._class_names = class_names
        self._row_bytes = sum(int(spec.shape[1]) * self._dtypes[spec.name].itemsize for spec in outputs)
        self._pieces: list[_Piece] = []
        self._rows = 0

    @property
    def full(self) -> bool:
        return self._rows * self._row_bytes >= GROUP_BYTES

    def add(
        self, start: int, paths: Sequence[bytes], reasons: Sequence[str | None], outputs: Mapping[str, NDArray[Any]]
    ) -> tuple[bytes, str] | None:
        """The answers, (N, k) each, for positions from `start` on. What is not finite gets a reason; returns the first bad
        path and its reason."""
        # A copy: backends reuse their memory.
        values = {name: np.array(outputs[name], dtype, order="C") for name, dtype in self._dtypes.items()}
        finite = np.logical_and.reduce([np.isfinite(array).all(axis=1) for array in values.values()]).tolist()
        bad = [reason or (None if good else NOT_FINITE) for reason, good in zip(reasons, finite, strict=True)]
        self._pieces.append(_Piece(start, list(paths), bad, values))
        self._rows += len(paths)
        return next(((path, reason) for path, reason in zip(paths, bad, strict=True) if reason is not None), None)

    def tables(self) -> Iterator[tuple[int, Any]]:
        """What was added, as a pyarrow.Table for each range of positions without a gap, and where it starts."""
        run: list[_Piece] = []
        for piece in sorted(self._pieces, key=lambda piece: piece.start):
            if run and piece.start != run[-1].start + len(run[-1].paths):
                yield run[0].start, self._table(run)
                run = []
            run.append(piece)
        if run:
            yield run[0].start, self._table(run)

    def _table(self, run: list[_Piece]) -> Any:
        pa = require("pyarrow", extra="parquet")
        reasons = [reason for piece in run for reason in piece.reasons]
        bad = pa.array([reason is not None for reason in reasons], pa.bool_())
        table = {"path": pa.array([text_of(path) for piece in run for path in piece.paths], pa.string())}
        for name in self._dtypes:
            values = np.concatenate([piece.values[name] for piece in run])
            flat, size = pa.array(values.reshape(-1)), values.shape[1]
            table[name] = pa.FixedSizeListArray.from_arrays(flat, size, mask=bad)
            if name == "topk_indices" and self._class_names is not None:
                labels = pa.array(self._class_names, pa.string()).take(flat)
                table[LABELS] = pa.FixedSizeListArray.from_arrays(labels, size, mask=bad)
        return pa.table(table | {"reason": pa.array(reasons, pa.string())})


class _Piece(NamedTuple):
    start: int
    paths: list[bytes]
    reasons: list[str | None]
    values: dict[str, NDArray[Any]]


def check_outputs(outputs: Sequence[TensorSpec]) -> None:
    """Raise UsageError for a head whose answer is no vector."""
    for spec in outputs:
        if len(spec.shape) != 2:
            raise UsageError(
                f"the bundle answers with {spec}: maps, not a vector an image. Export it with --head embedding, logits, "
                "probabilities or topk:K"
            )


def write_table(file: HashedFile, table: Any) -> None:
    """One table as a Parquet file."""
    with _writer(file, table.schema) as writer:
        writer.write_table(table)


def write_good(file: HashedFile, tables: Iterable[Any], metadata: Mapping[bytes, bytes]) -> None:
    """The good rows of tables as one sealed Parquet file, whose bytes don't depend on where the tables were cut."""
    pa, pc = require("pyarrow", extra="parquet"), require("pyarrow.compute", extra="parquet")
    writer, held, rows = None, [], 0
    for table in tables:
        good = table.filter(pc.is_null(table["reason"])).drop_columns(["reason"])
        if writer is None:
            group = max(1, GROUP_BYTES // max(1, _row_bytes(good.schema)))
            writer = _writer(file, good.schema.with_metadata(metadata))
        held.append(good)
        rows += len(good)
        while rows >= group:
            whole = pa.concat_tables(held)
            writer.write_table(whole.slice(0, group), row_group_size=group)
            held, rows = [whole.slice(group)], rows - group
    assert writer is not None
    if rows:
        writer.write_table(pa.concat_tables(held), row_group_size=group)
    writer.add_key_value_metadata({SEAL: UNSEALED})
    writer.close()
    file.seal()


def write_bad(file: HashedFile, tables: Iterable[Any]) -> int:
    """Path and reason of the bad rows as CSV; returns how many."""
    text, count = io.StringIO(newline=""), 0
    rows = csv.writer(text)
    rows.writerow(("path", "reason"))
    for table in tables:
        for row in bad_rows(table):
            rows.writerow(row)
            count += 1
        file.write(text.getvalue().encode())
        text.seek(0)
        text.truncate()
    return count


def bad_rows(table: Any) -> Iterator[tuple[str, str]]:
    """Path and reason of each bad row."""
    pc = require("pyarrow.compute", extra="parquet")
    bad = table.filter(pc.is_valid(table["reason"]))
    yield from zip(bad["path"].to_pylist(), bad["reason"].to_pylist(), strict=True)


def _dtype(name: str) -> np.dtype[Any]:
    """As it is written: whole numbers as int64, everything else as float32."""
    return np.dtype(np.int64 if name.startswith(("int", "uint")) else np.float32)


def _row_bytes(schema: Any) -> int:
    pa = require("pyarrow", extra="parquet")
    lists = [field.type for field in schema if pa.types.is_fixed_size_list(field.type)]
    widths = [8 if pa.types.is_string(kind.value_type) else kind.value_type.bit_width // 8 for kind in lists]
    return sum(kind.list_size * width for kind, width in zip(lists, widths, strict=True))


def _writer(file: HashedFile, schema: Any) -> Any:
    pq = require("pyarrow.parquet", extra="parquet")
    # Floats of a network don't compress; paths and labels do.
    text = ["path", "reason", f"{LABELS}.list.element"]
    return pq.ParquetWriter(
        file, schema, use_dictionary=text[1:], compression=dict.fromkeys(text, "zstd"), write_page_checksum=True
    )
