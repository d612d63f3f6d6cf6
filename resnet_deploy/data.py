"""Real images for verification and measurement: folders, .npz files and the digits, as batches of numpy arrays."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_deploy._deps import require
from resnet_deploy._files import sha256_file
from resnet_deploy.errors import DataError
from resnet_deploy.preprocessing import Pixels, Transform
from resnet_deploy.specs import InputFormat, Preprocessing

EXTENSIONS = {".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp"}
DIGITS_HELD_OUT = 600


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """An image that could not be used, and why."""

    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class Batch:
    """images: as the model takes them, (N, ...). labels: (N,) int64, where there are any."""

    images: NDArray[Any]
    labels: NDArray[np.int64] | None


@dataclass(kw_only=True)
class Dataset:
    """Images in a fixed order. `read(i)` gives one as the model takes it, or raises OSError or ValueError.

    labels: class indices, (len,) int64. crops: views of each image, along a first axis where there are several. skipped:
    filled while `batches` runs; strict makes a bad image an error.
    """

    source: str
    count: int
    read: Callable[[int], NDArray[Any]] = field(repr=False)
    name_of: Callable[[int], str] = field(repr=False)
    digest: Callable[[], str] = field(repr=False)
    labels: NDArray[np.int64] | None = None
    strict: bool = False
    crops: int = 1
    skipped: list[Skipped] = field(default_factory=list)
    _sha256: str | None = None

    def __len__(self) -> int:
        return self.count

    @property
    def sha256(self) -> str:
        """Of the files' bytes or the arrays' values, and of the labels."""
        if self._sha256 is None:
            labels = b"" if self.labels is None else self.labels.tobytes()
            self._sha256 = hashlib.sha256(self.digest().encode() + labels).hexdigest()
        return self._sha256

    def batches(self, batch: int, progress: Callable[[int], None] | None = None) -> Iterator[Batch]:
        """All images once, decoded by worker threads one batch ahead. progress: told how many were read.

        Raises DataError for a bad image where strict, and where none could be read.
        """
        self.skipped.clear()
        images: list[NDArray[Any]] = []
        kept: list[int] = []
        for index, item in self._decoded(ahead=batch):
            if progress is not None:
                progress(index + 1)
            if isinstance(item, Skipped):
                self.skipped.append(item)
                continue
            images.append(item)
            kept.append(index)
            if len(images) == batch:
                yield self._batch(images, kept)
                images, kept = [], []
        if images:
            yield self._batch(images, kept)
        if len(self.skipped) == self.count:
            first = self.skipped[0]
            raise DataError(f"none of the {self.count} images of {self.source} can be read; {first.name}: {first.reason}")

    def _batch(self, images: list[NDArray[Any]], kept: list[int]) -> Batch:
        return Batch(images=np.stack(images), labels=None if self.labels is None else self.labels[kept])

    def _decoded(self, *, ahead: int) -> Iterator[tuple[int, NDArray[Any] | Skipped]]:
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)
        with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
            numbers = iter(range(self.count))
            waiting = deque((i, pool.submit(self._read, i)) for i in itertools.islice(numbers, ahead + workers))
            while waiting:
                index, future = waiting.popleft()
                waiting.extend((i, pool.submit(self._read, i)) for i in itertools.islice(numbers, 1))
                yield index, future.result()

    def _read(self, index: int) -> NDArray[Any] | Skipped:
        try:
            return self.read(index)
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as exc:  # PIL raises all of these
            bad = Skipped(name=self.name_of(index), reason=str(exc) or type(exc).__name__)
            if self.strict:
                raise DataError(f"{bad.name}: {bad.reason}. Remove it, or run without --strict to skip it") from exc
            return bad


def open_data(
    source: str | Path,
    *,
    preprocessing: Preprocessing,
    input_format: InputFormat,
    num_classes: int | None = None,
    limit: int | None = None,
    strict: bool = False,
    crops: int = 1,
) -> Dataset:
    """Open a folder of images, an .npz file, `digits` (held out), `digits:train`, or `random:N`.

    num_classes: labels are checked against it. limit: so many images, evenly spaced. crops: 1, or 10 views of each image
    along a new first axis. Raises DataError.
    """
    transform = Transform(preprocessing=preprocessing, input_format=input_format, crops=crops)
    text = str(source)
    name, _, argument = text.partition(":")
    if name == "digits" and not Path(text).exists():
        dataset = _digits(argument, transform)
    elif name == "random" and not Path(text).exists():
        dataset = _random(argument, transform)
    elif Path(text).is_dir():
        dataset = _folder(Path(text), transform)
    elif Path(text).is_file():
        dataset = _npz(Path(text), transform)
    else:
        raise DataError(f"{text} does not exist; give a folder of images, an .npz file, `digits` or `random:N`")
    dataset.strict, dataset.crops = strict, crops
    if dataset.labels is not None and num_classes is not None and dataset.labels.size:
        low, high = int(dataset.labels.min()), int(dataset.labels.max())
        if low < 0 or high >= num_classes:
            raise DataError(f"{text} has labels from {low} to {high}, but the model has classes 0 to {num_classes - 1}")
    return dataset if limit is None or limit >= len(dataset) else _subset(dataset, limit)


def _folder(root: Path, transform: Transform) -> Dataset:
    try:
        direct = _images_in(root, recursive=False)
        folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
        classes = {folder.name: _images_in(folder) for folder in folders}
    except OSError as exc:
        raise DataError(f"{root} cannot be read: {exc.strerror}") from exc
    nested = [file for found in classes.values() for file in found]
    if direct and nested:
        raise DataError(
            f"{root} has images beside class folders ({direct[0].name}, {nested[0].relative_to(root)}); "
            "use one folder a class, or one folder of images"
        )
    files = direct or nested
    if not files:
        raise DataError(f"{root} has no images ({', '.join(sorted(EXTENSIONS))})")
    empty = [name for name, found in classes.items() if not found]
    if nested and empty:  # whether they count decides the labels of all that follow
        raise DataError(f"{root} has class folders without images ({', '.join(empty[:3])}); fill them or remove them")
    labels = np.repeat(np.arange(len(classes), dtype=np.int64), [len(found) for found in classes.values()])

    def read(number: int) -> NDArray[Any]:
        with Image.open(files[number]) as image:
            return transform(image)

    def digest() -> str:
        with ThreadPoolExecutor() as pool:
            hashes = pool.map(sha256_file, files)
            return "\n".join(f"{file.relative_to(root)} {value}" for file, value in zip(files, hashes, strict=True))

    return Dataset(
        source=str(root), count=len(files), read=read, digest=digest, labels=None if direct else labels,
        name_of=lambda number: str(files[number]),
    )  # fmt: skip


def _images_in(folder: Path, *, recursive: bool = True) -> list[Path]:
    found = (path for path in folder.glob("**/*" if recursive else "*") if path.suffix.lower() in EXTENSIONS)
    return sorted(p for p in found if p.is_file() and not any(name.startswith(".") for name in p.relative_to(folder).parts))


def _npz(path: Path, transform: Transform) -> Dataset:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images = arrays["images"]
            labels = arrays.get("labels")
    except Exception as exc:  # numpy, zipfile and zlib raise a dozen kinds for damaged files
        raise DataError(f"{path} is not a whole .npz file with an array `images` (and `labels`): {exc}") from exc
    if images.size == 0:
        raise DataError(f"{path} has no images: `images` is {list(images.shape)}")
    if labels is not None and (labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer)):
        raise DataError(f"{path}: labels are {labels.dtype} {list(labels.shape)}, expected integers {list(images.shape[:1])}")
    labels = None if labels is None else labels.astype(np.int64)
    if images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] == 3:
        return _pixels(str(path), images, labels, transform)
    size = transform.preprocessing.crop
    if images.dtype == np.float32 and images.shape[1:] == (3, size, size):
        if transform.crops > 1:
            raise DataError(f"{path} has images that are cropped already; {transform.crops} crops need uint8 pixels")
        if transform.input_format is InputFormat.UINT8:
            raise DataError(f"{path} has normalized float32 images, but the model takes uint8 pixels")
        return _array(str(path), images, labels, lambda number: _finite(images[number]))
    raise DataError(
        f"{path}: images are {images.dtype} {list(images.shape)}; expected uint8 [N, H, W, 3] pixels, "
        f"or float32 [N, 3, {size}, {size}] already normalized"
    )


def _finite(image: NDArray[np.float32]) -> NDArray[np.float32]:
    if not np.isfinite(image).all():
        raise ValueError("NaN or Inf in the image")
    return image


def _array(source: str, images: NDArray[Any], labels: NDArray[np.int64] | None, read: Callable[[int], NDArray[Any]]) -> Dataset:
    return Dataset(
        source=source, count=len(images), read=read, labels=labels, name_of=lambda number: f"{source}[{number}]",
        digest=lambda: hashlib.sha256(f"{images.dtype} {images.shape}".encode() + images.tobytes()).hexdigest(),
    )  # fmt: skip


def _pixels(source: str, images: Pixels, labels: NDArray[np.int64] | None, transform: Transform) -> Dataset:
    """uint8 (N, H, W, 3) arrays, preprocessed like files."""
    return _array(source, images, labels, lambda number: transform(Image.fromarray(images[number])))


def _digits(part: str, transform: Transform) -> Dataset:
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels: 600 held out, 1,197 to train and calibrate on."""
    if part not in {"", "train"}:
        raise DataError(f"unknown part {part!r} of the digits; use `digits` (held out) or `digits:train`")
    found = require("sklearn.datasets", extra="digits").load_digits()
    order = np.random.default_rng(0).permutation(len(found.target))
    chosen = order[DIGITS_HELD_OUT:] if part else order[:DIGITS_HELD_OUT]
    grey = np.rint(found.images[chosen] * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey[..., None], 3, axis=3)
    source = f"digits:{part}" if part else "digits"
    return _pixels(source, images, found.target[chosen].astype(np.int64), transform)


def _random(argument: str, transform: Transform) -> Dataset:
    """Uniform pixels from a fixed seed: for speed and numerical agreement, never for accuracy."""
    if argument and (not argument.isdecimal() or int(argument) < 1):
        raise DataError(f"random:{argument} is not a number of images, as in random:64")
    if transform.crops > 1:
        raise DataError("random images are made at the model's own size; give real ones to be cropped")
    count, crop = int(argument or 64), transform.preprocessing.crop
    shape = (crop, crop, 3)

    def read(number: int) -> NDArray[Any]:
        pixels = np.random.default_rng(number).integers(0, 256, shape, np.uint8)
        return transform.prepared(pixels)

    return Dataset(
        source=f"random:{count}", count=count, read=read, name_of=lambda number: f"random[{number}]",
        digest=lambda: f"random {count} {shape}",
    )  # fmt: skip


def _subset(dataset: Dataset, limit: int) -> Dataset:
    """Evenly spaced, so that every class folder is represented."""
    if limit < 1:
        raise DataError(f"a limit of {limit} leaves no image")
    chosen = np.linspace(0, len(dataset) - 1, limit).round().astype(np.int64)
    return Dataset(
        source=f"{dataset.source} ({limit} of {len(dataset)})", count=limit, strict=dataset.strict, crops=dataset.crops,
        read=lambda number: dataset.read(int(chosen[number])),
        name_of=lambda number: dataset.name_of(int(chosen[number])),
        digest=lambda: f"{dataset.digest()} {limit}",
        labels=None if dataset.labels is None else dataset.labels[chosen],
    )  # fmt: skip
