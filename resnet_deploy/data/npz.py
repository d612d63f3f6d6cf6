"""Arrays of an .npz file, looked at before they are read: a kilobyte can promise more than there is memory for."""

from __future__ import annotations

import math
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_deploy.data.labels import check_names
from resnet_deploy.errors import DataError

MAX_BYTES = 32 << 30  # of all arrays; and never more than half of the memory that is free
_NAMES = ("images", "labels", "class_names")
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # numpy's; bzip2 and lzma make a terabyte of a megabyte
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True, kw_only=True)
class Arrays:
    """images: (N, ...), not empty. labels: (N,) int64, not negative. class_names: of the classes that labels index."""

    images: NDArray[Any]
    labels: NDArray[np.int64] | None
    class_names: tuple[str, ...] | None


def load_arrays(path: Path, source: str) -> Arrays:
    """Read `images`, `labels` and `class_names` of an .npz file; the last two may be missing.

    Args:
        path: the file.
        source: its name, for messages.

    Raises:
        DataError: no whole .npz file, arrays of other types or shapes, or of more bytes than memory should hold.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            headers = {name: header for name in _NAMES if (header := _header(archive, name)) is not None}
        if "images" not in headers:
            raise ValueError("it has no array `images`")
    except DataError:
        raise
    except Exception as exc:  # numpy, zipfile and zlib raise a dozen kinds for damaged files
        raise _not_whole(source, exc) from exc
    _check_headers(headers, source)
    try:
        with np.load(path, allow_pickle=False) as arrays:
            values = {name: arrays[name] for name in headers}
    except MemoryError as exc:
        raise DataError(f"{source} does not fit into memory; give fewer images, or a folder of image files") from exc
    except Exception as exc:
        raise _not_whole(source, exc) from exc
    labels = values.get("labels")
    names = values.get("class_names")
    checked = None if labels is None else _labels(labels, source)
    return Arrays(images=values["images"], labels=checked, class_names=_class_names(names, checked, source))


@dataclass(frozen=True, kw_only=True)
class _Header:
    """What an array says of itself. nbytes: of its values."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    def __str__(self) -> str:
        return f"{'objects' if self.dtype.hasobject else self.dtype} {list(self.shape)}"


def _header(archive: zipfile.ZipFile, name: str) -> _Header | None:
    try:
        info = archive.getinfo(f"{name}.npy")
    except KeyError:
        return None
    if info.compress_type not in _METHODS:
        raise ValueError(f"`{name}` is compressed in a way that numpy does not write")
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise ValueError(f"`{name}` has version {version} of numpy's format; 1.0 and 2.0 are read")
        shape, _, dtype = _HEADERS[version](file)
        header = _Header(shape=shape, dtype=dtype)
        promised = file.tell() + header.nbytes
    if not dtype.hasobject and promised != info.file_size:
        raise ValueError(f"`{name}` says it is {header}, {promised:,} bytes with its header, and has {info.file_size:,}")
    return header


def _check_headers(headers: dict[str, _Header], source: str) -> None:
    for name, header in headers.items():
        if header.dtype.hasobject or header.dtype.names is not None:
            raise DataError(f"{source}: {name} are {header}, which are not plain numbers or strings")
    images, labels, names = (headers.get(name) for name in _NAMES)
    assert images is not None
    if images.nbytes == 0:
        raise DataError(f"{source} has no images: `images` is {list(images.shape)}")
    if labels is not None and (labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer)):
        raise DataError(f"{source}: labels are {labels}, expected integers {list(images.shape[:1])}")
    if names is not None and (len(names.shape) != 1 or names.dtype.kind != "U"):
        raise DataError(f"{source}: class_names are {names}, expected strings in one dimension")
    total, free = sum(header.nbytes for header in headers.values()), _free_bytes()
    if total > min(MAX_BYTES, free // 2):
        raise DataError(
            f"{source} has arrays of {total / 2**30:,.1f} GiB, more than {MAX_BYTES >> 30} GiB or half of the "
            f"{free / 2**30:,.1f} GiB of memory that are free; give fewer images, or a folder of image files"
        )


def _labels(labels: NDArray[Any], source: str) -> NDArray[np.int64]:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high > np.iinfo(np.int32).max:
        raise DataError(f"{source} has labels from {low} to {high}; they are indices of classes, from 0 on")
    return labels.astype(np.int64)


def _class_names(
    names: NDArray[Any] | None, labels: NDArray[np.int64] | None, source: str
) -> tuple[str, ...] | None:  # fmt: skip
    if names is None or labels is None:
        return None
    texts = tuple(str(name) for name in names)
    check_names(texts, source=source)
    if len(texts) <= labels.max():
        raise DataError(f"{source} has labels up to {labels.max()}, but {len(texts)} class_names")
    return texts


def _not_whole(source: str, exc: Exception) -> DataError:
    return DataError(f"{source} is not a whole .npz file with an array `images` (and `labels`): {exc or type(exc).__name__}")


def _free_bytes() -> int:
    """Memory that can be had without swapping; of the whole machine where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")) * 1024
    except (OSError, StopIteration, ValueError, IndexError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
