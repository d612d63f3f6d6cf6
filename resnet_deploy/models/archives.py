"""The files that hold checkpoints: PyTorch's zip archives, its older sequence of pickles, and safetensors.

Memory: a file is described before anything of it is loaded, and a description is bounded (16 MiB and two million operations,
which take some 600 MB at worst). A storage is as large as its part of the file, whatever the description claims.
"""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch

from resnet_deploy.models.pickles import MAX_BYTES, Global, PickleReader
from resnet_deploy.models.stored import Storage, StoredTensor, call_global, storage_dtype

_ZIP = b"PK"
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of PyTorch's format before 1.6
_MAX_DIRECTORY = 8 << 20  # of a zip archive; a member takes some 90 bytes of it, and 700 in memory
_SAFETENSORS = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "U16": torch.uint16, "U32": torch.uint32,
    "U64": torch.uint64, "BOOL": torch.bool, "C64": torch.complex64, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Contents:
    """What a file holds. tree: its object, with StoredTensor for tensors. metadata: safetensors' text by name.
    read: a storage's bytes, by its description; the file is open until then."""

    tree: Any
    read: Callable[[Storage], bytearray]
    metadata: dict[str, str]


class TorchScriptFile(ValueError):
    """The file is a TorchScript archive: a program with its weights."""


def open_contents(file: BinaryIO, path: Path) -> Contents:
    """Describe a checkpoint file by what it is, whatever its name says.

    Args:
        file: open, at its beginning.
        path: its name, which decides for a file that is neither a zip archive nor a pickle.

    Raises:
        ForbiddenGlobal: a pickle that names code.
        TorchScriptFile: a TorchScript archive.
        ValueError, OSError: a damaged file, or one of another kind.
    """
    start = file.read(9)
    file.seek(0)
    if start.startswith(_ZIP):
        return _zip_archive(file)
    if start[:1] == b"\x80" and path.suffix != ".safetensors":
        return _legacy(file)
    if path.suffix == ".safetensors" or start[8:] == b"{":
        return _safetensors(file)
    raise ValueError("it begins like none of PyTorch's files" if start else "it is empty")


def _size(file: BinaryIO) -> int:
    place = file.tell()
    size = file.seek(0, 2)
    file.seek(place)
    return size


# PyTorch's zip archive: NAME/data.pkl, and a stored member NAME/data/KEY for each storage.


def _zip_archive(file: BinaryIO) -> Contents:
    _check_directory(file)
    try:
        archive = zipfile.ZipFile(file)
        members = {info.filename.partition("/")[2]: info for info in archive.infolist()}
    except (zipfile.BadZipFile, NotImplementedError, struct.error, IndexError, OverflowError) as exc:
        raise ValueError(f"its zip archive is damaged: {exc}") from exc
    size = _size(file)
    if large := [info for info in archive.infolist() if info.file_size > size]:
        raise ValueError(f"its {large[0].filename} claims {large[0].file_size} bytes, more than the file's {size}")
    if len(members) < len(archive.infolist()):
        raise ValueError("its zip archive has two members of one name")
    if "constants.pkl" in members:
        raise TorchScriptFile
    if "data.pkl" not in members:
        raise ValueError("it is a zip archive without data.pkl, so torch.save did not write it")
    if all(info.CRC == 0 for info in members.values() if info.file_size):  # torch.serialization.set_crc32_options(False)
        for info in members.values():
            info.CRC = None  # type: ignore[assignment]

    def member(name: str, size: int) -> bytearray:
        if name not in members:
            raise ValueError(f"its zip archive has no {name}")
        return _member(archive, members[name], size)

    def read(storage: Storage) -> bytearray:
        return member(f"data/{storage.key}", storage.size_bytes)

    if "byteorder" in members and member("byteorder", members["byteorder"].file_size) != b"little":
        raise ValueError("its numbers are big-endian; save it again on a little-endian machine")
    return Contents(tree=_unpickled(archive, members["data.pkl"]), read=read, metadata={})


def _check_directory(file: BinaryIO) -> None:
    """Refuse a directory of millions of members before zipfile makes an object of each."""
    size = _size(file)
    file.seek(max(0, size - 22 - 65535 - 76))
    tail = file.read()
    file.seek(0)
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or len(tail) < place + 22:
        raise ValueError("its zip archive has no end: it is truncated")
    (length,) = struct.unpack_from("<I", tail, place + 12)
    if place >= 76 and tail.startswith(b"PK\x06\x06", place - 76):  # zip64's, which zipfile prefers
        (wide,) = struct.unpack_from("<Q", tail, place - 36)
        length = wide if length == 0xFFFFFFFF else max(length, wide)
    if length > _MAX_DIRECTORY:
        raise ValueError(f"its zip archive has a directory of {length} bytes, more than a checkpoint's {_MAX_DIRECTORY}")


def _member(archive: zipfile.ZipFile, info: zipfile.ZipInfo, size: int) -> bytearray:
    """A member's bytes, checked against the CRC that was written with it."""
    _check_stored(info)
    if info.file_size != size:
        raise ValueError(f"its {info.filename} has {info.file_size} bytes where {size} are described")
    data, count = bytearray(size), 0
    try:
        with archive.open(info) as stream:
            while block := stream.read(1 << 20):  # to the end, where the CRC is checked
                data[count : count + len(block)] = block
                count += len(block)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OverflowError, struct.error) as exc:
        raise ValueError(f"its {info.filename} is damaged: {exc}") from exc
    if count != size:
        raise ValueError(f"its {info.filename} is cut off")
    return data


def _check_stored(info: zipfile.ZipInfo) -> None:
    if info.compress_type != zipfile.ZIP_STORED or info.file_size > info.compress_size:
        raise ValueError(f"its {info.filename} is compressed, as torch.save never does; load it and save it again")


def _unpickled(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Any:
    if info.file_size > MAX_BYTES:
        raise ValueError(f"its data.pkl has {info.file_size} bytes, more than a checkpoint's {MAX_BYTES}")

    def persistent(value: Any) -> Storage:
        kind, cls, key, _, numel = value
        return _storage(kind, cls, key, numel)

    return PickleReader(io.BytesIO(_member(archive, info, info.file_size)), call_global, persistent).read()


def _storage(kind: Any, cls: Any, key: Any, numel: Any) -> Storage:
    if kind != "storage" or not isinstance(cls, Global) or not isinstance(key, str) or type(numel) is not int or numel < 0:
        raise TypeError
    if (dtype := storage_dtype(cls.name)) is None:
        raise TypeError
    return Storage(key=key, dtype=dtype, size_bytes=numel * dtype.itemsize)


# PyTorch's format before 1.6: five pickles, then each storage as the number of its elements and their bytes.


def _legacy(file: BinaryIO) -> Contents:
    storages: dict[str, Storage] = {}

    def persistent(value: Any) -> Any:
        if value[0] == "module":  # ("module", class, its file, its source)
            return value[1]
        kind, cls, key, _, numel, view = value
        storage = _storage(kind, cls, key, numel)
        if view is not None:
            raise ValueError("it shares storages as PyTorch before 0.4 did; load it and save it again")
        return storages.setdefault(key, storage)

    reader = PickleReader(file, call_global, persistent)
    magic = reader.read()
    if magic != _LEGACY_MAGIC:  # torch.save writes nothing else; this is a plain pickle
        raise ValueError("it is a pickle that torch.save did not write")
    version, system, tree, keys = (reader.read() for _ in range(4))
    if version != 1001 or not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("it is of an unknown version of PyTorch's format, or big-endian")
    places = _legacy_places(file, keys, storages)
    return Contents(tree=tree, read=lambda storage: _read_at(file, places[storage.key], storage), metadata={})


def _read_at(file: BinaryIO, place: int, storage: Storage) -> bytearray:
    file.seek(place)
    data = bytearray(storage.size_bytes)
    if file.readinto(data) != storage.size_bytes:  # type: ignore[attr-defined]
        raise ValueError("it is truncated")
    return data


def _legacy_places(file: BinaryIO, keys: Any, storages: dict[str, Storage]) -> dict[str, int]:
    """Where each storage's bytes begin."""
    size, places = _size(file), {}
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys) or set(keys) != set(storages):
        raise ValueError("its list of storages is not that of its tensors")
    for key in keys:
        storage = storages[key]
        header = file.read(8)
        if len(header) < 8 or file.tell() + storage.size_bytes > size:
            raise ValueError("it is truncated")
        (elements,) = struct.unpack("<q", header)
        if elements * storage.dtype.itemsize != storage.size_bytes:
            raise ValueError(f"its storage {key} has {elements} elements where {storage.size_bytes} bytes are described")
        places[key] = file.tell()
        file.seek(storage.size_bytes, 1)
    return places


# safetensors: the length of a JSON header, the header, and all tensors without gaps.


def _safetensors(file: BinaryIO) -> Contents:
    size = _size(file)
    start = file.read(8)
    length = int.from_bytes(start, "little")
    if len(start) < 8 or length > size - 8:
        raise ValueError(f"it has a header of {length} bytes, and {size} bytes in all: it is truncated")
    if length > MAX_BYTES:
        raise ValueError(f"its header has {length} bytes, more than a checkpoint's {MAX_BYTES}")
    try:
        header = json.loads(file.read(length).decode(), object_pairs_hook=_without_repeats)
    except RecursionError as exc:
        raise ValueError("its header is nested too deeply") from exc
    if not isinstance(header, dict):
        raise ValueError("its header is not an object")
    metadata = header.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("its __metadata__ is not text by name")
    tensors = {name: _described(name, entry) for name, entry in header.items()}
    spans = {name: tuple(entry["data_offsets"]) for name, entry in header.items()}
    _check_contiguous(list(spans.values()), size - 8 - length)
    return Contents(
        tree=tensors,
        read=lambda storage: _read_at(file, 8 + length + spans[storage.key][0], storage),
        metadata=metadata,
    )


def _described(name: str, entry: Any) -> StoredTensor:
    try:
        kind, shape, (begin, end) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as exc:
        raise ValueError(f"its header describes {name} by other than dtype, shape and data_offsets") from exc
    if len(shape) > 64 or not all(type(value) is int and 0 <= value < 1 << 63 for value in (*shape, begin, end)):
        raise ValueError(f"its header gives {name} a shape or offsets that are not counts")
    stride = [1] * len(shape)
    for axis in range(len(shape) - 2, -1, -1):
        stride[axis] = stride[axis + 1] * shape[axis + 1]
    dtype = _SAFETENSORS.get(kind) if isinstance(kind, str) else None
    storage = Storage(key=name, dtype=dtype or torch.uint8, size_bytes=end - begin)
    tensor = StoredTensor(
        storage=storage, dtype=dtype, shape=shape, stride=tuple(stride), kind="dense" if dtype else f"of the type {kind!s:.40}"
    )
    if begin > end or (dtype and tensor.size_bytes != end - begin):
        raise ValueError(f"its header gives {name} {end - begin} bytes, which its shape and type do not have")
    return tensor


def _check_contiguous(spans: list[tuple[int, int]], size: int) -> None:
    place = 0
    for begin, end in sorted(spans):
        if begin != place:
            raise ValueError(f"its tensors overlap or leave a gap at byte {min(begin, place)}")
        place = end
    if place != size:
        raise ValueError(f"its tensors take {place} bytes, and it has {size}: it is truncated or damaged")


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise ValueError("its header has one name twice")
    return values
