"""Arrays that promise more than they have, or than there is memory for; and arrays of every other kind."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resnet_deploy.data.dataset import Dataset
from resnet_deploy.data.sources import open_data
from resnet_deploy.errors import DataError
from resnet_deploy.specs import InputFormat, Preprocessing
from tests.helpers.paths import ROOT


def opened(source: Any, **options: Any) -> Dataset:
    return open_data(source, preprocessing=Preprocessing(resize=8, crop=8), input_format=InputFormat.UINT8, **options)


TWO = np.zeros((2, 8, 8, 3), np.uint8)


def header(shape: tuple[int, ...], descr: str = "'|u1'", version: int = 1) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    width = 2 if version == 1 else 4
    text = text.ljust(118) + b"\n"
    return b"\x93NUMPY" + bytes([version, 0]) + len(text).to_bytes(width, "little") + text


def write(path: Path, data: bytes, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("images.npy", data)
    return path


@pytest.mark.parametrize("shape", [(10**9, 100, 100, 3), (34_000, 1000, 1000, 3), (2**63, 3), (2**40, 2**40, 3)])
def test_a_header_that_promises_what_is_not_there(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"`images` says it is uint8 \[.*\], [\d,]+ bytes with its header, and has [\d,]+"):
        opened(write(tmp_path / "a.npz", header(shape)))


BOMB = """
import resource, sys
from tests.data.test_npz import opened
from resnet_deploy.errors import DataError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    opened(sys.argv[1])
except DataError as exc:
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024, exc)
"""


def test_a_bomb_is_refused_by_its_size_before_it_is_read(tmp_path: Path) -> None:
    """An archive whose directory says 100 GB: what deflate can make of 100 MB; here with the directory alone forged."""
    shape = (34_000, 1000, 1000, 3)
    path = write(tmp_path / "a.npz", header(shape) + bytes(1_000_000))
    whole = bytearray(path.read_bytes())
    size, at = len(header(shape)) + 34_000 * 3_000_000, whole.index(b"PK\x01\x02")
    extra = b"\x01\x00\x08\x00" + size.to_bytes(8, "little")  # ZIP64: sizes of more than 4 GB
    entry = whole[at : at + 46]
    entry[24:28], entry[30:32] = b"\xff" * 4, len(extra).to_bytes(2, "little")
    end = whole.index(b"PK\x05\x06")
    directory = bytes(entry) + whole[at + 46 : at + 56] + extra + whole[at + 56 : end]
    tail = whole[end:]
    tail[12:16] = len(directory).to_bytes(4, "little")
    path.write_bytes(whole[:at] + directory + tail)
    with zipfile.ZipFile(path) as archive:
        assert archive.getinfo("images.npy").file_size == size > 100e9 and path.stat().st_size < 3000
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", BOMB, path], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    grown, message = done.stdout.split(" ", 1)
    assert int(grown) < 50e6 and "has arrays of 95.0 GiB, more than 32 GiB or half of the" in message, message


def test_a_bomb_within_the_directorys_size_ends_where_the_directory_says(tmp_path: Path) -> None:
    """A stream that goes on beyond the size that the archive has for it is not read on."""
    path = write(tmp_path / "a.npz", header((1, 8, 8, 3)) + bytes(50_000_000))
    with pytest.raises(DataError, match=r"192|says it is uint8 \[1, 8, 8, 3\]"):
        opened(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compressions_are_not_numpys(tmp_path: Path, method: int) -> None:
    with pytest.raises(DataError, match="`images` is compressed in a way that numpy does not write"):
        opened(write(tmp_path / "a.npz", header((1, 8, 8, 3)) + bytes(192), method))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.array([None, 1])}, r"images are objects \[2\], which are not plain numbers or strings"),
        ({"images": np.zeros(3, [("r", "u1"), ("g", "u1")])}, r"images are \[\('r', 'u1'\).*\] \[3\], which are not plain"),
        ({"images": np.zeros((), np.uint8)}, r"images are uint8 \[\]; expected uint8 \[N, H, W, 3\]"),
        ({"images": np.zeros((1, 8, 8, 3), ">f4")}, r"images are >f4 \[1, 8, 8, 3\]; expected"),
        ({"images": np.zeros((1, 8, 8, 3), np.int8)}, r"images are int8"),
        ({"images": np.zeros((1, 8, 8, 3), bool)}, r"images are bool"),
        ({"images": np.zeros((1, 8, 8, 3), complex)}, r"images are complex128"),
        ({"images": np.array(["a"])}, r"images are <U1 \[1\]"),
        ({"images": TWO, "labels": np.array([None, 1])}, "labels are objects"),
        ({"images": TWO, "labels": np.array(3)}, r"labels are int64 \[\], expected integers \[2\]"),
        ({"images": TWO, "labels": np.array([0, -1])}, "labels from -1 to 0; they are indices"),
        ({"images": TWO, "labels": np.array([0, 2**63], np.uint64)}, "labels from 0 to 9223372036854775808"),
        ({"images": TWO, "labels": np.array([0, np.nan])}, "labels are float64"),
        ({"images": TWO, "labels": np.array([True, False])}, "labels are bool"),
    ],
)  # fmt: skip
def test_arrays_of_other_kinds(tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(DataError, match=message):
        opened(tmp_path / "a.npz")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        header((1, 8, 8, 3), version=3) + bytes(192),
        header((-1, 8, 8, 3)) + bytes(192),
        header((1, 8, 8, 3), "'nonsense'") + bytes(192),
        header((1, 8, 8, 3), "'|u1'")[:60],
        b"\x93NUMPY\x01\x00\x76\x00" + b"(" * 118,
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b"{" * 200,
    ],
)
def test_headers_that_are_none(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(DataError, match=r"is not a whole \.npz file"):
        opened(write(tmp_path / "a.npz", data))


def test_an_array_that_is_no_array(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("images", "text")
    with pytest.raises(DataError, match="it has no array `images`"):
        opened(tmp_path / "a.npz")


@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_in_either_order(tmp_path: Path, order: Any) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    np.savez_compressed(tmp_path / "a.npz", images=np.asarray(images, order=order), labels=np.array([2, 1, 0], ">i2"))
    dataset = opened(tmp_path / "a.npz", num_classes=3)
    (batch,) = dataset.batches(4)
    assert np.array_equal(batch.images, images) and batch.labels.tolist() == [2, 1, 0]


@pytest.mark.parametrize("text", ["1000001", "99999999999", "1" + "0" * 23, "9" * 5000])
def test_more_random_images_than_can_be_meant(text: str) -> None:
    with pytest.raises(DataError, match=r"^random:\d{1,40} is too many images, or too high a seed; there are 1 to 1,000,000"):
        opened(f"random:{text}")


@pytest.mark.parametrize("text", ["٣", "1e3", "0x10", "000", "+4", "1_000"])
def test_random_images_of_no_number(text: str) -> None:
    with pytest.raises(DataError, match="is not a number of images, as in random:64"):
        opened(f"random:{text}")
    assert len(opened("random:0064")) == 64
