"""Folders of images: good ones of every format, damaged ones, and other things that are called so."""

from __future__ import annotations

import io
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

NAME = "images"

Pixels = NDArray[Any]

LOSSLESS = {"PNG": "png", "BMP": "bmp", "TIFF": "tiff", "PPM": "ppm", "WEBP": "webp"}  # webp: saved without loss
LOSSY = {"JPEG": "jpg", "GIF": "gif"}
# What Pillow reads and nobody means. Not among them: AVIF, whose use may be decided, and MPO, as which cameras write JPEG.
STRANGE = ("ICO", "TGA", "PCX", "SGI", "DDS", "JPEG2000", "ICNS", "IM", "MSP", "SPIDER", "XBM", "PDF", "EPS", "BLP")
SUFFIXES = ("jpg", "jpeg", "png", "ppm", "bmp", "pgm", "tif", "tiff", "webp", "gif", "JPG")
POSTSCRIPT = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n{ } loop\n",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(touched) (w) file closefile showpage\n",
)
OTHERS = (
    b"", b"\x00" * 64, b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", b"GIF89a", b"\xff\xd8\xff\xe0",
    b"\x89PNG\r\n\x1a\n", b"P6 99999 99999 255\n", b"P6\n1 1\n70000\n\0\0\0\0\0\0", b"P5 -1 -1 255\n", b"BM" + b"\xff" * 52,
    b"II*\0\x08\0\0\0\xff\xff", b"RIFF\xff\xff\xff\xffWEBPVP8X", b"%PDF-1.4\n", b"\x00\x00\x00\x20ftypavif" + b"\x00" * 40,
)  # fmt: skip
PROGRAMS = {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "pty.spawn"}

_watch: list[str] | None = None  # programs that were started during a case


def _hook(event: str, arguments: Any) -> None:
    if _watch is not None and event in PROGRAMS:
        _watch.append(f"{event} {str(arguments[:1])[:80]}")
        raise OSError("no program is started for an image")


def prepare() -> None:
    sys.addaudithook(_hook)


def run(rng: random.Random, folder: Path) -> None:
    """A folder of up to four images, read as verify reads them."""
    global _watch
    root = folder / "images"
    inner = root / "class" if rng.random() < 0.3 else root
    inner.mkdir(parents=True)
    expected: dict[int, Pixels] = {}
    strange: dict[int, str] = {}
    for number in range(rng.choice([1, 1, 2, 4])):
        _write(rng, inner, number, expected, strange)
    _watch = []
    try:
        _read(rng, root, expected, strange)
    finally:
        started, _watch = _watch, None
    assert not started, f"believed PostScript: {started[0]}"
    assert not (folder / "touched").exists(), "believed PostScript"


def _write(rng: random.Random, root: Path, number: int, expected: dict[int, Pixels], strange: dict[int, str]) -> None:
    """One file; what it must be read as goes into `expected`, what must not be read at all into `strange`."""
    kind = rng.random()
    suffix = rng.choice(SUFFIXES)
    if kind < 0.1:
        data = rng.choice(POSTSCRIPT) if rng.random() < 0.4 else rng.choice(OTHERS)
    elif kind < 0.2:
        name = rng.choice(STRANGE)
        data = _encoded(rng, _pixels(rng), name)
        strange[number] = name
    elif kind < 0.3:
        data, expected[number] = _deep(rng)
    else:
        name = rng.choice([*LOSSLESS, *LOSSY])
        pixels = _pixels(rng)
        data = _encoded(rng, pixels, name)
        suffix = suffix if rng.random() < 0.2 else {**LOSSLESS, **LOSSY}[name]
        if kind < 0.7:
            data = damage(rng, data)
        elif name in LOSSLESS:
            expected[number] = _as_rgb(pixels)
    (root / f"{number}.{suffix}").write_bytes(data)


def _read(rng: random.Random, root: Path, expected: dict[int, Pixels], strange: dict[int, str]) -> None:
    from resnet_deploy.data.sources import open_data
    from resnet_deploy.errors import DeployError
    from resnet_deploy.specs import InputFormat, Preprocessing

    crops = rng.choice([1, 1, 1, 10])
    preprocessing = Preprocessing(resize=32, crop=32, mean=(0.5,) * 3, std=(0.25,) * 3)
    chosen = rng.choice([InputFormat.UINT8, InputFormat.FLOAT])
    strict = rng.random() < 0.2
    found: list[Pixels] = []
    try:
        dataset = open_data(root, preprocessing=preprocessing, input_format=chosen, strict=strict, crops=crops)
        dataset.sha256  # noqa: B018
        for batch in dataset.batches(3):
            found.extend(batch.images)
    except DeployError:
        return
    skipped = {int(Path(item.name).stem) for item in dataset.skipped}
    names = [int(Path(dataset.name_of(index)).stem) for index in range(len(dataset))]
    read = dict(zip([name for name in names if name not in skipped], found, strict=True))
    assert len(found) + len(skipped) == len(dataset), "lost an image that is neither read nor skipped"
    shape = (32, 32, 3) if chosen is InputFormat.UINT8 else (3, 32, 32)
    for number, image in read.items():
        assert image.shape == (shape if crops == 1 else (10, *shape)), f"believed an image of the shape {image.shape}"
        assert np.isfinite(image).all(), "believed an image that is not finite"
        assert number not in strange, f"believed an image of the format {strange[number]}"
        if number in expected and chosen is InputFormat.UINT8 and crops == 1:
            _same(image, expected[number])


def _same(image: Pixels, expected: Pixels) -> None:
    """Whether pixels are what was saved. Images are 32 wide and high, which preprocessing leaves alone."""
    if expected.shape != image.shape:
        return
    difference = np.abs(image.astype(int) - expected.astype(int))
    assert difference.max() <= 2, f"believed pixels that are not the file's: {difference.mean():.0f} of 255 on average"


def _pixels(rng: random.Random) -> Pixels:
    """Grey, RGB or RGBA of 8 bits; mostly as large as the network takes them, so that nothing is resized."""
    width, height = (32, 32) if rng.random() < 0.7 else (rng.randint(1, 70), rng.randint(1, 70))
    channels = rng.choice([1, 3, 3, 3])
    generator = np.random.default_rng(rng.randrange(2**32))
    pixels = generator.integers(0, 256, (height, width, channels), np.uint8)
    return pixels[..., 0] if channels == 1 else pixels


def _as_rgb(pixels: Pixels) -> Pixels:
    return np.repeat(pixels[..., None], 3, axis=2) if pixels.ndim == 2 else pixels


def _encoded(rng: random.Random, pixels: Pixels, name: str) -> bytes:
    from PIL import Image

    image, file = Image.fromarray(pixels), io.BytesIO()
    options: dict[str, Any] = {"lossless": True} if name == "WEBP" else {}
    if name == "TIFF":
        options["compression"] = rng.choice([None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
    if name == "JPEG":
        options |= {"quality": rng.choice([10, 95]), "progressive": rng.random() < 0.5}
        if rng.random() < 0.2:
            image = image.convert("CMYK")
    if name == "GIF" and rng.random() < 0.3:
        options |= {"save_all": True, "append_images": [image.rotate(90), image.rotate(180)]}
    if name in {"MSP", "XBM"}:
        image = image.convert("1")
    if name == "SPIDER":
        image = image.convert("F")
    if name == "BLP":
        image = image.convert("P")
    if name == "ICNS":
        image = image.resize((32, 32))
    try:
        image.save(file, name, **options)
    except (OSError, ValueError, KeyError):  # a mode that the format has not, or a codec that this Pillow has not
        return b"none"
    return file.getvalue()


def _deep(rng: random.Random) -> tuple[bytes, Pixels]:
    """Grey of 16 bits (PNG, TIFF, PGM) or of 32 bits (TIFF, integers): read as its upper 8 bits, or not at all."""
    from PIL import Image

    generator = np.random.default_rng(rng.randrange(2**32))
    values = generator.integers(0, 65536, (32, 32)).astype(np.uint16)
    file, kind = io.BytesIO(), rng.randrange(4)
    if kind == 3:
        Image.fromarray((values.astype(np.int64) * 32767).astype(np.int32)).save(file, "TIFF")
    else:
        Image.fromarray(values).save(file, ("PNG", "TIFF", "PPM")[kind])
    return file.getvalue(), _as_rgb(np.rint(values / 257).astype(np.uint8))


def damage(rng: random.Random, data: bytes) -> bytes:
    """Bits flipped, bytes lost, doubled or overwritten, lengths in headers made large; for other targets too."""
    found = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        if not found:
            break
        place = rng.randrange(min(len(found), rng.choice([16, 64, 512, 1 << 30])))  # headers more often than their share
        kind = rng.randrange(6)
        if kind == 0:
            found[place] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del found[place:]
        elif kind == 2:
            del found[place : place + rng.randint(1, 16)]
        elif kind == 3:
            found[place:place] = rng.randbytes(rng.randint(1, 16))
        elif kind == 4:
            found[place : place + 4] = rng.choice([b"\xff\xff\xff\xff", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\0\1\0\0"])
        else:
            found[place : place + 64] = found[rng.randrange(len(found)) :][:64]
    return bytes(found)
