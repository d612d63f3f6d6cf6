"""What `--data` and `--calibration` may be: a folder, an .npz file, the digits, random pixels."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_deploy._deps import require
from resnet_deploy._text import text_of
from resnet_deploy.data.dataset import Dataset, subset
from resnet_deploy.data.folders import kind_of, list_files
from resnet_deploy.data.images import open_image
from resnet_deploy.data.labels import ClassOrder, order_names
from resnet_deploy.data.npz import load_arrays
from resnet_deploy.data.preprocessing import Pixels, Transform
from resnet_deploy.errors import DataError
from resnet_deploy.specs import InputFormat, Preprocessing

DIGITS_HELD_OUT = 600
DIGIT_NAMES = tuple("0123456789")
MAX_RANDOM = 1_000_000


@dataclass(frozen=True, kw_only=True)
class _Classes:
    """The model's: their names by index, how many there are, and whether labels must be theirs."""

    names: tuple[str, ...] | None
    count: int | None
    needed: bool

    def __post_init__(self) -> None:
        if self.names is not None and self.count is not None and len(self.names) != self.count:
            raise DataError(f"the model has {self.count} classes, but {len(self.names)} names of classes")

    def order(self, names: Sequence[str], source: str) -> ClassOrder | str:
        """The classes of a data set's own names; why there are none where labels are not needed. Raises DataError."""
        try:
            return order_names(names, source=source, class_names=self.names, num_classes=self.count)
        except DataError as exc:
            if self.needed:
                raise
            return f"labels are left out: {exc}"


def open_data(
    source: str | Path,
    *,
    preprocessing: Preprocessing,
    input_format: InputFormat,
    num_classes: int | None = None,
    class_names: Sequence[str] | None = None,
    labels_needed: bool = True,
    limit: int | None = None,
    strict: bool = False,
    crops: int = 1,
) -> Dataset:
    """Open images and their labels.

    Args:
        source: a folder of images, an .npz file, `digits` (held out), `digits:train`, or `random:N`.
        preprocessing, input_format: what the model takes.
        num_classes: of the model; labels are checked against it.
        class_names: of the model, by index: folders of classes are matched by name. Without them, folders are the model's
            classes in sorted order, and then there must be as many.
        labels_needed: False for images alone, as for calibration: labels that cannot be told are left out, with a note.
        limit: at most this many images, evenly spaced.
        strict: a bad image is an error.
        crops: 1, or 10 views of each image along a new first axis.

    Returns:
        The images, in a fixed order; they are read batch by batch.

    Raises:
        DataError: nothing there that can be used, or labels that are not the model's classes.
        UsageError: crops that are not to be had.
    """
    transform = Transform(preprocessing=preprocessing, input_format=input_format, crops=crops)
    names = None if class_names is None else tuple(class_names)
    text, classes = str(source), _Classes(names=names, count=num_classes, needed=labels_needed)
    name, _, argument = text.partition(":")
    built_in = name in {"digits", "random"} and not os.path.exists(text)  # noqa: PTH110 (false for what is no path at all)
    kind = name if built_in else kind_of(text)
    if kind == "digits":
        dataset = _digits(argument, transform, classes)
    elif kind == "random":
        dataset = _random(argument, transform)
    elif kind == "folder":
        dataset = _folder(Path(text), transform, classes)
    elif kind == "file":
        dataset = _npz(Path(text), transform, classes)
    else:
        raise DataError(
            f"{text_of(Path(text))} does not exist; give a folder of images, an .npz file, `digits` or `random:N`"
        )  # fmt: skip
    dataset.strict, dataset.crops = strict, crops
    _check_range(dataset, classes)
    return dataset if limit is None or limit >= len(dataset) else subset(dataset, limit)


def _check_range(dataset: Dataset, classes: _Classes) -> None:
    if dataset.labels is None or classes.count is None:
        return
    low, high = int(dataset.labels.min()), int(dataset.labels.max())
    if high < classes.count:
        return
    message = f"{dataset.source} has labels from {low} to {high}, but the model has classes 0 to {classes.count - 1}"
    if classes.needed:
        raise DataError(message)
    dataset.labels = dataset.class_names = dataset.label_order = None
    dataset.notes.append(f"labels are left out: {message}")


def _folder(root: Path, transform: Transform, classes: _Classes) -> Dataset:
    listed = list_files(root, class_names=classes.names, num_classes=classes.count, labels_needed=classes.needed)
    files, order = listed.files, listed.order

    def read(number: int) -> NDArray[Any]:
        with open_image(files[number]) as image:
            return transform(image)

    return Dataset(
        source=text_of(root), count=len(files), read=read, digest=listed.digest, labels=listed.labels,
        name_of=lambda number: text_of(files[number]), class_names=order.class_names if order else None,
        label_order=order.label_order if order else None, notes=list(listed.notes),
    )  # fmt: skip


def _npz(path: Path, transform: Transform, classes: _Classes) -> Dataset:
    source = text_of(path)
    arrays = load_arrays(path, source)
    images, size = arrays.images, transform.preprocessing.crop
    if images.dtype == np.uint8 and images.ndim == 4 and images.shape[3] == 3:
        return _labelled(_pixels(source, images, arrays.labels, transform), arrays.class_names, classes)
    if images.dtype == np.float32 and images.shape[1:] == (3, size, size):
        if transform.crops > 1:
            raise DataError(f"{source} has images that are cropped already; {transform.crops} crops need uint8 pixels")
        if transform.input_format is InputFormat.UINT8:
            raise DataError(f"{source} has normalized float32 images, but the model takes uint8 pixels")
        ready = _array(source, images, arrays.labels, lambda number: _finite(images[number]))
        return _labelled(ready, arrays.class_names, classes)
    raise DataError(
        f"{source}: images are {images.dtype} {list(images.shape)}; expected uint8 [N, H, W, 3] pixels, "
        f"or float32 [N, 3, {size}, {size}] already normalized"
    )


def _labelled(dataset: Dataset, names: Sequence[str] | None, classes: _Classes) -> Dataset:
    """Make labels that index a data set's own names indices of the model's classes."""
    if dataset.labels is None:
        return dataset
    if names is None:
        dataset.class_names, dataset.label_order = classes.names, "given"
        return dataset
    order = classes.order(names, dataset.source)
    if isinstance(order, str):
        dataset.labels, dataset.notes = None, [order]
        return dataset
    dataset.labels = np.asarray(order.indices, np.int64)[dataset.labels]
    dataset.class_names, dataset.label_order, dataset.notes = order.class_names, order.label_order, list(order.notes)
    return dataset


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


def _digits(part: str, transform: Transform, classes: _Classes) -> Dataset:
    """scikit-learn's 1,797 handwritten digits of 8x8 pixels: 600 held out, 1,197 to train and calibrate on."""
    if part not in {"", "train"}:
        raise DataError(f"unknown part {part!r} of the digits; use `digits` (held out) or `digits:train`")
    digits = require("sklearn.datasets", extra="digits").load_digits()
    order = np.random.default_rng(0).permutation(len(digits.target))
    chosen = order[DIGITS_HELD_OUT:] if part else order[:DIGITS_HELD_OUT]
    grey = np.rint(digits.images[chosen] * (255 / 16)).astype(np.uint8)
    images = np.repeat(grey[..., None], 3, axis=3)
    source = f"digits:{part}" if part else "digits"
    return _labelled(_pixels(source, images, digits.target[chosen].astype(np.int64), transform), DIGIT_NAMES, classes)


def _random(argument: str, transform: Transform) -> Dataset:
    """Uniform pixels, each image from a seed of its own: for speed and numerical agreement, never for accuracy."""
    text, colon, start = argument.partition(":")
    number, first = text.lstrip("0"), start.lstrip("0")
    wrong = any(part and not (part.isascii() and part.isdecimal()) for part in (text, start))
    if wrong or bool(colon) != bool(start) or (text and not number):
        raise DataError(
            f"random:{argument[:40]} is not a number of images, as in random:64, nor one and its first seed, as in random:64:99"
        )
    longest = len(str(MAX_RANDOM))  # int() takes no more than 4,300 digits
    if max(len(number), len(first)) > longest or max(int(number or 64), int(first or 0)) > MAX_RANDOM:
        raise DataError(
            f"random:{argument[:40]} is too many images, or too high a seed; there are 1 to {MAX_RANDOM:,}, as in random:64"
        )
    if transform.crops > 1:
        raise DataError("random images are made at the model's own size; give real ones to be cropped")
    count, seed, crop = int(number or 64), int(first or 0), transform.preprocessing.crop
    shape = (crop, crop, 3)

    def read(number: int) -> NDArray[Any]:
        pixels = np.random.default_rng(seed + number).integers(0, 256, shape, np.uint8)
        return transform.prepared(pixels)

    return Dataset(
        source=f"random:{count}{f':{seed}' if seed else ''}", count=count, read=read,
        name_of=lambda number: f"random[{seed + number}]", digest=lambda: f"random {count} {shape}{f' {seed}' if seed else ''}",
    )  # fmt: skip
