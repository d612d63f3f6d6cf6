""".npz files: damaged ones, headers that lie, arrays of other types, and bombs."""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.fuzz.images import damage

NAME = "arrays"
CLASSES = 10
SIZE = 32
DTYPES = ("uint8", "float32", "float64", "float16", "int64", "bool", "complex64", "U5", "S3", ">u1", ">f4", "M8[s]", "V4")
SHAPES = ((0, 32, 32, 3), (4, 32, 32), (4, 3, 32, 32), (4, 32, 32, 3), (4, 32, 32, 4), (4, 0, 0, 3), (), (4,), (1, 1, 1, 3))
BOMB_BYTES = 256 << 20

_bomb = b""


def prepare() -> None:
    """A quarter of a gigabyte of zeros as a quarter of a megabyte of deflate."""
    global _bomb
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = bytes(1 << 20)
    _bomb = b"".join(packer.compress(block) for _ in range(BOMB_BYTES >> 20)) + packer.flush()


def run(rng: random.Random, folder: Path) -> None:
    """One file, read as verify reads it."""
    images, labels = _good(rng)
    kind = rng.random()
    wrong: str | None = None
    exact = False  # what is read must be what was written
    if kind < 0.35:
        data, exact = damage(rng, _packed(rng, images=images, labels=labels)), True
    elif kind < 0.6:
        data = _zip(rng, {"images.npy": _lying(rng, images), "labels.npy": _npy(labels)})
    elif kind < 0.8:
        images, labels, wrong = _odd(rng, images, labels)
        data = _packed(rng, images=images, labels=labels)
    elif kind < 0.99:
        data = _structure(rng, images, labels)
    else:
        data = _deflated(rng)
    path = folder / rng.choice(["data.npz", "data.npy", "data", "data.zip"])
    path.write_bytes(data)
    _read(rng, path, images if exact else None, labels if exact else None, wrong)


def _read(rng: random.Random, path: Path, images: Any, labels: Any, wrong: str | None) -> None:
    from resnet_deploy.data.sources import open_data
    from resnet_deploy.errors import DeployError
    from resnet_deploy.specs import InputFormat, Preprocessing

    preprocessing = Preprocessing(resize=SIZE, crop=SIZE, mean=(0.5,) * 3, std=(0.25,) * 3)
    chosen = rng.choice([InputFormat.UINT8, InputFormat.FLOAT])
    limit = rng.choice([None, None, 2])
    found: list[NDArray[Any]] = []
    named: list[int] = []
    try:
        dataset = open_data(path, preprocessing=preprocessing, input_format=chosen, num_classes=CLASSES, limit=limit)
        dataset.sha256  # noqa: B018
        for number, batch in enumerate(dataset.batches(3)):
            found.extend(batch.images)
            named.extend([] if batch.labels is None else batch.labels.tolist())
            if number > 3:  # of a bomb the beginning is enough
                break
    except DeployError:
        return
    assert wrong is None, f"believed {wrong}"
    assert all(np.isfinite(image).all() for image in found), "believed an image that is not finite"
    assert all(0 <= label < CLASSES for label in named), "believed a label that is no class"
    if (
        images is not None
        and limit is None
        and not dataset.skipped
        and images.dtype == np.uint8
        and chosen is InputFormat.UINT8
    ):
        assert np.array_equal(np.stack(found), images[: len(found)]), "believed damaged pixels"
        assert not named or named == labels[: len(named)].tolist(), "believed damaged labels"


def _good(rng: random.Random) -> tuple[NDArray[Any], NDArray[Any]]:
    generator = np.random.default_rng(rng.randrange(2**32))
    count = rng.randint(1, 5)
    if rng.random() < 0.7:
        images: NDArray[Any] = generator.integers(0, 256, (count, SIZE, SIZE, 3), np.uint8)
    else:
        images = generator.normal(size=(count, 3, SIZE, SIZE)).astype(np.float32)
    return images, generator.integers(0, CLASSES, count)


def _odd(rng: random.Random, images: Any, labels: Any) -> tuple[Any, Any, str | None]:
    """Arrays of another type, shape or content. Returns also what must not be believed of them."""
    kind = rng.randrange(7)
    if kind == 0:
        dtype, shape = np.dtype(rng.choice(DTYPES)), rng.choice(SHAPES)
        return np.zeros(shape, dtype), None if rng.random() < 0.5 else labels, None
    if kind == 1:
        labels = labels.copy()
        labels[rng.randrange(len(labels))] = rng.choice([-1, CLASSES, 2**40])
        return images, labels, "a label that is no class"
    if kind == 2:
        big = labels.astype(np.uint64)
        big[0] = 2**64 - rng.randint(1, 3)
        return images, big, "a label that is no class"
    if kind == 3:
        return images, rng.choice([labels.astype(np.float64), labels[:, None], labels.astype("U3"), labels[:-1]]), "such labels"
    if kind == 4:
        return images, labels.astype(rng.choice(["u1", ">i4", "i2", "bool"])), None
    if kind == 5:
        spoiled = images.astype(np.float32)
        spoiled.flat[rng.randrange(spoiled.size)] = rng.choice([np.nan, np.inf, 1e38])
        return spoiled, labels, None
    return np.asfortranarray(images), labels, None


def _npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=True)
    return file.getvalue()


def _packed(rng: random.Random, **arrays: Any) -> bytes:
    file = io.BytesIO()
    save = rng.choice([np.savez, np.savez_compressed])
    save(file, **{name: array for name, array in arrays.items() if array is not None})
    return file.getvalue()


def _lying(rng: random.Random, array: NDArray[Any]) -> bytes:
    """An .npy whose header says something else than what follows it."""
    count = rng.choice([10**3, 10**6, 10**10, 2**62, 2**63, 2**64, -1, 0])
    shape = rng.choice([f"({count}, 32, 32, 3)", f"(4, {count}, {count}, 3)", "(4, 32, 32, 3.0)", "(True, 32)", "4", "None"])
    dtype = rng.choice(["'|u1'", "'|u1'", "'|O'", "'<f4'", "'|V99999999999'", "[('a', '|u1')]", "('|u1', (9, 9))", "'x'", "1"])
    header = rng.choice(
        [
            f"{{'descr': {dtype}, 'fortran_order': {rng.choice(['False', 'True', '3'])}, 'shape': {shape}, }}",
            f"{{'descr': {dtype}, 'shape': {shape}}}",
            "(" * rng.choice([50, 5_000]),
            "{'descr': " + "[" * 200 + "]" * 200 + "}",
            "__import__('os').system('true')",
            "9" * rng.choice([100, 60_000]),
            "",
        ]
    ).encode()
    version = rng.choice([(1, 0), (1, 0), (2, 0), (3, 0), (9, 9)])
    long = version != (1, 0)
    length = len(header) if rng.random() < 0.9 else rng.choice([0, 65535, 2**31])
    packed = struct.pack("<I", length) if long else struct.pack("<H", min(length, 65535))
    return b"\x93NUMPY" + bytes(version) + packed + header + array.tobytes()


def _zip(rng: random.Random, files: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def _structure(rng: random.Random, images: Any, labels: Any) -> bytes:
    """Archives of another kind: no archive, no arrays, names that lead elsewhere, other methods, objects."""
    whole = _npy(images)
    return rng.choice(
        [
            lambda: whole,
            lambda: b"",
            lambda: b"PK\x05\x06" + bytes(18),
            lambda: _zip(rng, {"images": whole}),
            lambda: _zip(rng, {"images.npy": b"", "labels.npy": b""}),
            lambda: _zip(rng, {"images.npy": b"text"}),
            lambda: _zip(rng, {"images.npy": whole, "labels.npy": b"text"}),
            lambda: _zip(rng, {"../images.npy": whole, "/labels.npy": _npy(labels)}),
            lambda: _zip(rng, {"images.npy": _npy(np.array([{"a": 1}], dtype=object))}),
            lambda: _zip(rng, {f"{number}.npy": whole for number in range(40)}),
            lambda: _zip(rng, {"images.npy": whole, "labels.npy": _npy(np.array(3))}),
            lambda: _zip(rng, {"images.npy": _npy(np.ma.masked_array(images))}),
            lambda: _other_method(rng, whole),
            lambda: _packed(rng, images=images, labels=labels) * 2,
            lambda: b"#!/bin/sh\n" + _packed(rng, images=images, labels=labels),
        ]
    )()


def _other_method(rng: random.Random, data: bytes) -> bytes:
    """Compressed otherwise (bzip2, LZMA, or a number that nobody knows), or marked as encrypted."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", rng.choice([zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])) as archive:
        archive.writestr("images.npy", data)
    packed = bytearray(file.getvalue())
    if rng.random() < 0.5:
        at, flags = packed.rfind(b"PK\x01\x02"), rng.random() < 0.5
        struct.pack_into("<H", packed, 6 if flags else 8, 1 if flags else 99)
        struct.pack_into("<H", packed, at + (8 if flags else 10), 1 if flags else 99)
    return bytes(packed)


def _deflated(rng: random.Random) -> bytes:
    """An entry that grows a thousandfold: the zeros that its header promises, or without a header."""
    count = BOMB_BYTES // (SIZE * SIZE * 3)
    header = _npy(np.zeros((1, SIZE, SIZE, 3), np.uint8))[:128].replace(b"(1,", f"({count},".encode())
    header = header if rng.random() < 0.5 else b""
    packer = zlib.compressobj(0, zlib.DEFLATED, -15)
    body = packer.compress(header) + packer.flush(zlib.Z_FULL_FLUSH) + _bomb
    size = len(header) + BOMB_BYTES
    crc = rng.getrandbits(32)
    name = b"images.npy"
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 0, crc, len(body), size, len(name), 0) + name
    central = (
        struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 8, 0, 0, crc, len(body), size, len(name), 0, 0, 0, 0, 0, 0) + name
    )
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1, 1, len(central), len(local) + len(body), 0)
    return local + body + central + end
