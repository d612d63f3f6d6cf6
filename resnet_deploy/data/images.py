"""Image files: the formats that are opened, and their pixels as 8-bit RGB. Nothing else in this package opens one.

Pillow reads some fifty formats, and by what a file begins with, not by its name. Its reader of EPS starts Ghostscript, and
PostScript is a program; so only the formats below are opened, and no other program is started for an image.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import os
import stat
from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

import numpy as np
from PIL import Image, UnidentifiedImageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "AVIF")  # Pillow's names
EXTENSIONS = frozenset(
    {
        ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".bmp", ".gif", ".webp",
        ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".avif",
    }
)  # fmt: skip
MAX_FILE_BYTES = 1 << 30  # 100 megapixels of 16-bit RGBA are 800 MB; some formats are read whole when they are opened
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # tags of TIFF
_WHITE_IS_ZERO = 0
_REASON_CHARACTERS = 300


def open_image(source: str | bytes | os.PathLike[str] | IO[bytes]) -> Image.Image:
    """Open an image file without decoding it: its size and mode are known, its pixels are read by `to_rgb`.

    Args:
        source: a path, or a file that is open or in memory.

    Returns:
        The image, to be closed (`with open_image(...) as image`). Of an animation or of several pages, the first.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no regular file, empty, larger than 1 GiB, damaged, or of none of `FORMATS`.
    """
    if isinstance(source, (str, bytes, os.PathLike)):
        _check_file(source)
    with _damage_as_value_error():
        return Image.open(source, formats=_formats())  # type: ignore[arg-type]  # bytes are a path too


def to_rgb(image: Image.Image) -> Image.Image:
    """Decode an image to 8-bit RGB.

    Grey of 12 or 16 bits becomes its upper 8, as Pillow itself reads 16-bit colour; `Image.convert` alone would make all
    above 255 white. Check `image.size` against a limit before.

    Raises:
        OSError, ValueError: damaged; or 32-bit grey, integer or float, whose range no file says.
    """
    with _damage_as_value_error():
        image.load()
        if bits := _deep_grey_bits(image):
            image = Image.fromarray(_upper_bits(image, bits))
        return image if image.mode == "RGB" else image.convert("RGB")


def reason_of(exc: BaseException) -> str:
    """Why an image cannot be used, in a line: an exception's text, or its name where it has none."""
    lines = str(exc).splitlines() or [""]
    return lines[0][:_REASON_CHARACTERS] or type(exc).__name__


@functools.cache
def _formats() -> tuple[str, ...]:
    """Pillow reads AVIF since 11.3; an older one raises KeyError for a name that it does not know."""
    known = importlib.util.find_spec("PIL.AvifImagePlugin") is not None
    return tuple(name for name in FORMATS if known or name != "AVIF")


def _check_file(path: str | bytes | os.PathLike[str]) -> None:
    status = os.stat(path)  # noqa: PTH116 (of bytes too)
    if not stat.S_ISREG(status.st_mode):
        raise ValueError("not a file")  # a pipe would be waited for, and a device be read, for ever
    if not status.st_size:
        raise ValueError("an empty file")
    if status.st_size > MAX_FILE_BYTES:
        raise ValueError(f"{status.st_size / 2**30:,.1f} GiB, more than the {MAX_FILE_BYTES >> 30} GiB that an image may have")


@contextlib.contextmanager
def _damage_as_value_error() -> Iterator[None]:
    """Damaged files make Pillow's readers raise a dozen kinds: SyntaxError, RuntimeError (AVIF), struct.error, its own."""
    try:
        yield
    except UnidentifiedImageError:
        raise ValueError(f"not an image that can be read ({', '.join(_formats())})") from None
    except (OSError, ValueError, MemoryError):
        raise
    except Exception as exc:
        raise ValueError(reason_of(exc)) from exc


def _deep_grey_bits(image: Image.Image) -> int | None:
    """Bits of a grey pixel where they are more than 8. Raises ValueError where the range is not known."""
    if image.mode.startswith("I;16"):
        return int(_tiff_tag(image, _BITS_PER_SAMPLE, 16))
    if image.mode == "I" and image.format in {"PNG", "PPM"}:  # PPM is scaled to 16 bits; so was PNG before Pillow 11
        return 16
    if image.mode in {"I", "F"}:
        kind = "integers" if image.mode == "I" else "floats"
        raise ValueError(f"grey pixels are 32-bit {kind}, whose range is not known; convert it to 8 or 16 bits")
    return None


def _upper_bits(image: Image.Image, bits: int) -> NDArray[np.uint8]:
    """(H, W): the upper 8 of so many bits, white at 255 also where the file has white at 0."""
    pixels: NDArray[np.uint8] = (np.asarray(image) >> (bits - 8)).astype(np.uint8)
    return 255 - pixels if _tiff_tag(image, _PHOTOMETRIC, 1) == _WHITE_IS_ZERO else pixels


def _tiff_tag(image: Image.Image, tag: int, default: int) -> int:
    value = getattr(image, "tag_v2", {}).get(tag, default)
    return int(value[0] if isinstance(value, tuple) else value)
