"""Every kind of file that is found among a million: pixels that are right, or a reason; and bounded memory."""

from __future__ import annotations

import errno
import os
import resource
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_deploy.data.preprocessing import Transform
from resnet_deploy.errors import StorageError
from resnet_deploy.serving.embedding.decoders import Decoders
from resnet_deploy.serving.embedding.decoding import Decoder
from resnet_deploy.specs import InputFormat, Preprocessing
from tests.helpers.embedding import photograph
from tests.helpers.paths import ROOT


@pytest.fixture(autouse=True)
def as_in_a_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)


def transform(resize: int = 40, crop: int = 32) -> Transform:
    return Transform(preprocessing=Preprocessing(resize=resize, crop=crop), input_format=InputFormat.UINT8)


def decoder(max_pixels: int = 100_000_000) -> Decoder:
    return Decoder(transform=transform(), max_pixels=max_pixels)


def decoded(path: Path) -> np.ndarray | str:
    return decoder()(os.fsencode(path))


def animation(path: Path) -> None:
    photograph(1).save(path, save_all=True, append_images=[photograph(2), photograph(3)])


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("a.jpg", lambda path: photograph(1, 1, 1).save(path)),
        ("a.png", lambda path: photograph(1, 1, 1).save(path)),
        ("a.jpg", lambda path: photograph(1, 1, 300).save(path)),
        ("a.jpg", lambda path: photograph(1).convert("CMYK").save(path)),
        ("a.jpg", lambda path: photograph(1).convert("L").save(path)),
        ("a.jpg", lambda path: photograph(1, 900, 700).save(path, progressive=True)),
        ("a.png", lambda path: photograph(1).convert("RGBA").save(path)),
        ("a.png", lambda path: photograph(1).quantize(9).save(path)),
        ("a.gif", animation),
        ("a.webp", animation),
        ("a.tiff", animation),
        ("a.png", animation),
    ],
    ids=["1 pixel", "1 pixel png", "a sliver", "cmyk", "grey", "progressive", "rgba", "palette", "gif", "webp", "tiff", "apng"],
)
def test_images_are_read_as_verify_reads_them(tmp_path: Path, name: str, make: Callable[[Path], None]) -> None:
    make(tmp_path / name)
    with Image.open(tmp_path / name) as image:
        expected = transform()(image)  # of an animation, the first frame
    assert np.array_equal(decoded(tmp_path / name), expected)


def png(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG file that says it is so large."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def floats(path: Path) -> None:
    Image.fromarray(np.arange(6400, dtype=np.float32).reshape(80, 80)).save(path)


def truncated(path: Path) -> None:
    photograph(1, 300, 200).save(path)
    path.write_bytes(path.read_bytes()[:2000])


@pytest.mark.parametrize(
    ("name", "make", "reason"),
    [
        ("a.jpg", lambda path: path.write_bytes(b""), "an empty file"),
        ("a.jpg", lambda path: path.write_text("no image"), "not an image that can be read"),
        ("a.jpg", truncated, "image file is truncated"),
        ("a.tiff", floats, "grey pixels are 32-bit floats, whose range is not known; convert it to 8 or 16 bits"),
        ("a.png", lambda path: path.write_bytes(png(60_000, 60_000)), "60000x60000 is 3,600.0 megapixels, more than 100.0"),
        ("a.png", lambda path: path.write_bytes(png(20, 20, b"short")), "image file is truncated"),
        ("a.jpg", lambda path: None, "No such file or directory"),
        ("a.jpg", lambda path: path.mkdir(), "not a file"),
        ("a.jpg", lambda path: os.mkfifo(path), "not a file"),
        ("a.png", lambda path: Image.new("1", (1, 65_535)).save(path), "40x2621400 is more than 100 megapixels"),
    ],
    ids=["empty", "text", "truncated", "floats", "bomb", "damaged", "absent", "folder", "pipe", "sliver"],
)
def test_what_is_no_image(tmp_path: Path, name: str, make: Callable[[Path], object], reason: str) -> None:
    make(tmp_path / name)
    found = decoded(tmp_path / name)
    assert isinstance(found, str) and found.startswith(reason), found


def test_the_limit_is_an_option(tmp_path: Path) -> None:
    photograph(1, 50, 41).save(tmp_path / "a.png")
    assert isinstance(decoder(2050)(os.fsencode(tmp_path / "a.png")), np.ndarray)
    assert "more than" in str(decoder(2049)(os.fsencode(tmp_path / "a.png")))


def test_storage_that_fails_is_no_bad_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "stat", fail)
    with pytest.raises(StorageError, match=r"cannot read a.jpg: Input/output error. Run the command again to go on"):
        decoder()(b"a.jpg")


MEASURE = """
import os, resource, sys
from tests.serving.embedding.test_decoding import decoder
found, at = decoder(), []
for path in sys.argv[1:]:
    assert found(os.fsencode(path)).shape == (32, 32, 3)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
def test_memory_at_100_megapixels(tmp_path: Path) -> None:
    """A small image, a JPEG of 100 megapixels at reduced scale, and the same as PNG, which is decoded whole: 300 MB."""
    photograph(1).save(tmp_path / "small.jpg")
    large = photograph(2, 100, 100).resize((10_000, 10_000), Image.Resampling.NEAREST)
    large.save(tmp_path / "large.jpg", quality=50)
    large.save(tmp_path / "large.png", compress_level=1)
    paths = [str(tmp_path / name) for name in ("small.jpg", "large.jpg", "large.png")]
    done = subprocess.run([sys.executable, "-c", MEASURE, *paths], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    small, jpeg, whole = map(int, done.stdout.split())
    assert jpeg - small < 60e6 and whole - small < 400e6, (small, jpeg, whole)
    exact = transform()(large)
    reduced = decoded(tmp_path / "large.jpg")
    assert isinstance(reduced, np.ndarray)
    assert np.abs(reduced.astype(int) - exact).mean() < 3, "a reduced scale changes pixels by little"


# The processes that decode.


class Crashing(Decoder):
    """As a codec that is driven out of its memory."""

    def __call__(self, path: bytes) -> np.ndarray | str:
        if b"crash" in path:
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.kill(os.getpid(), signal.SIGSEGV)
        if b"disk" in path:
            raise StorageError("the disk is gone")
        return np.full(self.shape, int(path), self.dtype)


def through(paths: list[bytes], workers: int = 2, batch: int = 5) -> list[tuple[int, int | str]]:
    found: list[tuple[int, int | str]] = []
    with Decoders(Crashing(transform=transform(), max_pixels=1), workers=workers, batch=batch) as decoders:
        for part in decoders.decoded((at, paths[at : at + batch]) for at in range(0, len(paths), batch)):
            assert len(part.images) == len(part.paths) == len(part.reasons)
            values = [reason or int(image.min()) for image, reason in zip(part.images, part.reasons, strict=True)]
            assert all(image.max() == 0 for image, reason in zip(part.images, part.reasons, strict=True) if reason)
            found += [(part.start + number, value) for number, value in enumerate(values)]
    return found


@pytest.mark.parametrize("workers", [1, 3])
def test_the_order_is_kept(workers: int) -> None:
    assert through([b"%d" % (number % 256) for number in range(123)], workers) == [(n, n % 256) for n in range(123)]


def test_a_codec_that_crashes_is_a_bad_image() -> None:
    paths = [b"crash" if number in {3, 4, 11} else b"%d" % number for number in range(14)]
    said = "reading it ended the decoder: signal 11"
    assert through(paths) == [(number, said if number in {3, 4, 11} else number) for number in range(14)]


def test_a_failing_disk_ends_the_run() -> None:
    with pytest.raises(StorageError, match="the disk is gone"):
        through([b"1", b"2", b"disk", b"3"])
