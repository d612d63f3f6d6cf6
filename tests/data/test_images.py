"""Which files are opened as images, by every reader; what their pixels become; and what is no image, in words."""

from __future__ import annotations

import ast
import io
import json
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resnet_deploy.data import images as module
from resnet_deploy.data.images import EXTENSIONS, FORMATS, open_image, to_rgb
from resnet_deploy.data.preprocessing import Transform
from resnet_deploy.data.sources import open_data
from resnet_deploy.errors import UsageError
from resnet_deploy.serving.embedding.decoding import Decoder
from resnet_deploy.specs import InputFormat, Preprocessing
from tests.helpers.paths import ROOT

SMALL = Preprocessing(resize=8, crop=8)
TRANSFORM = Transform(preprocessing=SMALL, input_format=InputFormat.UINT8)


def step(preprocessing: Preprocessing = SMALL) -> object:
    """Triton's decode step, set up as the server does."""
    from resnet_deploy.serving.triton.steps.decode import TritonPythonModel
    from resnet_deploy.specs import to_dict

    parameters = {"preprocessing": json.dumps(to_dict(preprocessing)), "input_format": "uint8"}
    model = TritonPythonModel()
    config = {
        "parameters": {name: {"string_value": value} for name, value in parameters.items()},
        "output": [{"data_type": "TYPE_UINT8"}],
    }
    model.initialize({"model_config": json.dumps(config)})
    return model


def by_verify(path: Path) -> np.ndarray | str:
    """What `--data` and `--calibration` read."""
    dataset = open_data(path.parent, preprocessing=SMALL, input_format=InputFormat.UINT8)
    index = [dataset.name_of(number) for number in range(len(dataset))].index(str(path))
    try:
        return dataset.read(index)
    except (OSError, ValueError) as exc:
        return str(exc)


def by_embed(path: Path) -> np.ndarray | str:
    return Decoder(transform=TRANSFORM, max_pixels=10**8)(os.fsencode(path))


def by_triton(path: Path) -> np.ndarray | str:
    (answer,) = step().decode([[path.read_bytes()]])  # type: ignore[attr-defined]
    return answer if isinstance(answer, str) else answer[0]


READERS = {"verify": by_verify, "embed": by_embed, "triton": by_triton}
each_reader = pytest.mark.parametrize("reader", READERS.values(), ids=READERS)


# Formats.

EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{ } loop\n"

READ_HOSTILE = """
import sys
from pathlib import Path
started = []
sys.addaudithook(lambda event, args: started.append((event, str(args))) if event in {"subprocess.Popen", "os.system",
                 "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty"} else None)
from tests.data.test_images import READERS
for name, reader in READERS.items():
    for path in sorted(Path(sys.argv[1]).iterdir()):
        answer = reader(path)
        assert isinstance(answer, str) and "not an image that can be read (JPEG, PNG" in answer, (name, path, answer)
print(started)
"""


def test_no_program_is_started_for_postscript_by_any_name(tmp_path: Path) -> None:
    """Ghostscript is stood in for by a program that says that it was called."""
    called = tmp_path / "called"
    ghostscript = tmp_path / "bin" / "gs"
    ghostscript.parent.mkdir()
    ghostscript.write_text(f"#!/bin/sh\necho called >> {called}\nexit 1\n")
    ghostscript.chmod(0o755)
    hostile = tmp_path / "hostile"
    hostile.mkdir()
    for suffix in sorted(EXTENSIONS):
        (hostile / f"photo{suffix}").write_bytes(EPS)
        binary = struct.pack("<4sIIIIIIH", b"\xc5\xd0\xd3\xc6", 32, len(EPS), 0, 0, 0, 0, 0xFFFF)  # EPS with a header of DOS
        (hostile / f"dos{suffix}").write_bytes(binary.ljust(32, b"\0") + EPS)
    environment = os.environ | {"PATH": f"{ghostscript.parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", READ_HOSTILE, hostile], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert not called.exists() and done.stdout.strip() == "[]", done.stdout


@pytest.mark.parametrize("format", ["PCX", "TGA", "ICO", "SGI", "JPEG2000", "PDF"])
@each_reader
def test_formats_that_are_not_meant_are_refused(
    tmp_path: Path, format: str, reader: Callable[[Path], np.ndarray | str]
) -> None:
    content = io.BytesIO()
    Image.new("RGB", (16, 16)).save(content, format)
    (tmp_path / "a.png").write_bytes(content.getvalue())
    answer = reader(tmp_path / "a.png")
    assert isinstance(answer, str) and answer.split(": ")[-1].startswith("not an image that can be read (JPEG, PNG"), answer


@pytest.mark.parametrize("format", FORMATS)
@each_reader
def test_formats_that_are_meant_are_read(tmp_path: Path, format: str, reader: Callable[[Path], np.ndarray | str]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)
    try:
        Image.fromarray(pixels).save(tmp_path / "a.png", format)
    except KeyError:
        pytest.skip(f"this Pillow has no {format}")
    with Image.open(tmp_path / "a.png") as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(reader(tmp_path / "a.png"), expected)


def test_an_older_pillow_without_avif(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module._formats.cache_clear()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    try:
        (tmp_path / "a.avif").write_bytes(b"\0\0\0\x1cftypavif" + bytes(40))
        with pytest.raises(ValueError, match=r"not an image that can be read \(JPEG, PNG, BMP, GIF, WEBP, TIFF, PPM\)"):
            open_image(tmp_path / "a.avif")
    finally:
        module._formats.cache_clear()


def test_extensions_are_those_of_the_formats() -> None:
    registered = Image.registered_extensions()
    assert {registered[name] for name in EXTENSIONS if name in registered} <= set(FORMATS)
    assert {registered.get(name) for name in EXTENSIONS} >= set(FORMATS) & set(registered.values())


def test_the_reference_names_the_formats() -> None:
    text = (ROOT / "REFERENCE.md").read_text()
    assert ", ".join(FORMATS[:-1]).replace("WEBP", "WebP") + f" or {FORMATS[-1]}" in " ".join(text.split())


def test_images_are_opened_in_one_place() -> None:
    """By this package's `open_image`, whose formats are listed, and not by Pillow's own."""
    opening = [
        path.name
        for path in (ROOT / "resnet_deploy").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "Image.open"
    ]
    assert opening == ["images.py"]


# More than 8 bits.

GREY16 = np.array([[0, 255, 256, 1000], [32768, 65279, 65280, 65535]], np.uint16)
GREY8 = np.array([[0, 0, 1, 3], [128, 254, 255, 255]], np.uint8)


def rgb(data: bytes | Path) -> np.ndarray:
    with open_image(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
        return np.asarray(to_rgb(image))


def encoded(image: Image.Image, format: str, **options: object) -> bytes:
    content = io.BytesIO()
    image.save(content, format, **options)
    return content.getvalue()


def tiff(pixels: bytes, *, width: int, height: int, order: str = "<", **tags: int) -> bytes:
    """An uncompressed grey TIFF: bits, photometric and sample_format as they are given."""
    values = {
        256: width, 257: height, 258: tags["bits"], 259: 1, 262: tags.get("photometric", 1), 273: 8, 277: 1, 278: height,
        279: len(pixels), 339: tags.get("sample_format", 1),
    }  # fmt: skip
    entries = b"".join(struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in values.items())
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return (
        mark + struct.pack(f"{order}I", 8 + len(pixels)) + pixels + struct.pack(f"{order}H", len(values)) + entries + bytes(4)
    )


SIXTEEN = {
    "png": lambda: encoded(Image.fromarray(GREY16), "PNG"),
    "pgm": lambda: b"P5 4 2 65535\n" + GREY16.astype(">u2").tobytes(),
    "tiff": lambda: encoded(Image.fromarray(GREY16), "TIFF"),
    "tiff, big-endian": lambda: tiff(GREY16.astype(">u2").tobytes(), width=4, height=2, order=">", bits=16),
    "tiff, white is 0": lambda: tiff((~GREY16).tobytes(), width=4, height=2, bits=16, photometric=0),
    "tiff, deflated": lambda: encoded(Image.fromarray(GREY16), "TIFF", compression="tiff_adobe_deflate"),
}


@pytest.mark.parametrize("make", SIXTEEN.values(), ids=SIXTEEN)
def test_16_bit_grey_keeps_its_upper_8(make: Callable[[], bytes]) -> None:
    expected = GREY8 if make is not SIXTEEN["tiff, white is 0"] else 255 - ((65535 - GREY16) >> 8).astype(np.uint8)
    assert np.array_equal(rgb(make()), np.repeat(expected[..., None], 3, axis=2))


def png(pixels: np.ndarray) -> bytes:
    """(H, W, 3) uint16 as a PNG, which Pillow does not write."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, 2, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_16_bit_grey_is_read_as_16_bit_colour_is() -> None:
    """The same pixels as grey and as colour, which Pillow itself converts."""
    assert np.array_equal(rgb(png(np.repeat(GREY16[..., None], 3, axis=2))), rgb(SIXTEEN["png"]()))


def test_12_bit_grey_keeps_its_upper_8() -> None:
    packed = bytes([0x00, 0x0F, 0xFF, 0x80, 0x01, 0x00])  # 0, 4095, 2048, 256
    pixels = rgb(tiff(packed, width=4, height=1, bits=12))
    assert pixels[0, :, 0].tolist() == [0, 255, 128, 16]


@pytest.mark.parametrize("maximum", [300, 1000, 4095, 65534])
def test_grey_maps_are_scaled_by_their_own_maximum(maximum: int) -> None:
    pixels = rgb(b"P5 3 1 %d\n" % maximum + np.array([0, maximum // 2, maximum], ">u2").tobytes())[0, :, 0]
    assert pixels[0] == 0 and 126 <= pixels[1] <= 128 and pixels[2] == 255


DEEP = {
    "integers": lambda: tiff(np.arange(8, dtype=np.int32).tobytes(), width=4, height=2, bits=32, sample_format=2),
    "integers, 16 bits with a sign": lambda: tiff(GREY16.tobytes(), width=4, height=2, bits=16, sample_format=2),
    "floats": lambda: tiff(np.ones(8, np.float32).tobytes(), width=4, height=2, bits=32, sample_format=3),
    "floats of a PFM": lambda: b"Pf\n4 2\n-1.0\n" + np.ones(8, np.float32).tobytes(),
}


@pytest.mark.parametrize("make", DEEP.values(), ids=DEEP)
@each_reader
def test_32_bit_grey_has_no_range_and_is_refused(
    tmp_path: Path, make: Callable[[], bytes], reader: Callable[[Path], np.ndarray | str]
) -> None:
    (tmp_path / "a.tif").write_bytes(make())
    answer = reader(tmp_path / "a.tif")
    assert isinstance(answer, str) and "whose range is not known; convert it to 8 or 16 bits" in answer, answer


@each_reader
def test_every_reader_converts_alike(tmp_path: Path, reader: Callable[[Path], np.ndarray | str]) -> None:
    ramp = np.linspace(0, 65535, 64 * 64).astype(np.uint16).reshape(64, 64)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    expected = TRANSFORM(Image.fromarray((ramp >> 8).astype(np.uint8)))
    answer = reader(tmp_path / "a.png")
    assert np.array_equal(answer, expected) and len(np.unique(expected)) > 20


# Damaged, and no image at all.


@pytest.mark.filterwarnings("ignore:::PIL")
@pytest.mark.parametrize("format", FORMATS)
def test_damaged_files_end_in_one_of_two_kinds(format: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), np.uint8)
    try:
        whole = encoded(Image.fromarray(pixels), format)
    except KeyError:
        pytest.skip(f"this Pillow has no {format}")
    generator, kinds = np.random.default_rng(1), set()
    for number in range(300):
        damaged = bytearray(whole)
        for position in generator.integers(0, min(len(whole), 60 + number * 2), 3):
            damaged[position] = generator.integers(256)
        try:
            rgb(bytes(damaged[: None if number % 3 else -number]))
        except (OSError, ValueError) as exc:
            kinds.add(type(exc))
    assert kinds


@each_reader
def test_a_corrupt_avif_is_no_crash(tmp_path: Path, reader: Callable[[Path], np.ndarray | str]) -> None:
    try:
        whole = encoded(Image.new("RGB", (32, 32)), "AVIF")
    except KeyError:
        pytest.skip("this Pillow has no AVIF")
    broken = whole[: whole.index(b"mdat") + 4] + bytes(len(whole) - whole.index(b"mdat") - 4)
    for number, content in enumerate((whole[:60], whole[:-9], whole.replace(b"iloc", b"xloc"), broken)):
        (tmp_path / f"{number}.avif").write_bytes(content)
        assert isinstance(reader(tmp_path / f"{number}.avif"), str)


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    """A pipe would be waited for and /dev/zero be read for ever."""
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    for name in ("pipe.png", "zero.png", "folder.png"):
        with pytest.raises(ValueError, match="not a file"):
            open_image(tmp_path / name)
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    with pytest.raises(OSError, match="symbolic links"):
        open_image(tmp_path / "loop.png")
    with (tmp_path / "sparse.png").open("wb") as file:
        file.truncate(2 << 30)
    with pytest.raises(ValueError, match=r"2.0 GiB, more than the 1 GiB that an image may have"):
        open_image(tmp_path / "sparse.png")


# Memory.

MEASURE = """
import resource, sys
from pathlib import Path
from tests.data.test_images import step
data = Path(sys.argv[1]).read_bytes()
model = step()
model.decode([[data]])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
answers = model.decode([[data] * 12])
assert answers[0].startswith("image 0 cannot be used: image file is truncated"), answers
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


@pytest.mark.slow
def test_damaged_images_of_a_request_are_not_kept(tmp_path: Path) -> None:
    """Twelve of 27 megapixels, 80 MB each once decoded: no more memory than one takes."""
    whole = encoded(Image.new("RGB", (5200, 5200), (1, 2, 3)), "PNG")
    (tmp_path / "a.png").write_bytes(whole[:-30])
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path / "a.png"], capture_output=True, text=True, env=environment
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 160e6, done.stdout


# Preprocessing that can be meant.


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resize": 0}, "resize is 0; it must be a whole number of pixels from 1 to 8,192"),
        ({"crop": 10**9}, "crop is 1000000000; it must be a whole number of pixels from 1 to 8,192"),
        ({"crop": 8193}, "crop is 8193"),
        ({"crop": 224.5}, r"crop is 224\.5"),
        ({"crop": True}, "crop is True"),
        ({"mean": (0.5, float("nan"), 0.5)}, r"mean is \(0.5, nan, 0.5\); it must be three numbers.*from -10 to 10"),
        ({"mean": (float("inf"),) * 3}, "mean is .inf"),
        ({"mean": (123.7, 116.3, 103.5)}, r"mean is .*of red, green and blue in \[0, 1\]"),
        ({"mean": (0.5, 0.5)}, r"mean is \(0.5, 0.5\)"),
        ({"mean": ("a", "b", "c")}, "mean is"),
        ({"std": (0.0, 1.0, 1.0)}, "std is .*from 0.0001 to 100"),
        ({"std": (-1.0, 1.0, 1.0)}, "std is"),
        ({"std": (1e-30, 1.0, 1.0)}, "std is"),
        ({"std": (float("nan"),) * 3}, "std is"),
    ],
)
def test_preprocessing_out_of_range(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Preprocessing(**{"resize": 256, "crop": 224, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "changes", [{"crop": float("inf")}, {"crop": 223.9}, {"crop": "many"}, {"mean": 3}, {"std": ["x"] * 3}, {"resize": None}]
)
def test_preprocessing_of_another_form(changes: dict[str, object]) -> None:
    with pytest.raises((TypeError, ValueError)):
        Preprocessing.from_dict({"resize": 256, "crop": 224, "mean": [0, 0, 0], "std": [1, 1, 1], **changes})


def test_preprocessing_of_numbers_beyond_floats() -> None:
    with pytest.raises(UsageError, match="mean is"):
        Preprocessing.from_dict({"resize": 256, "crop": 224, "mean": [10**400, 0, 0], "std": [1, 1, 1]})
