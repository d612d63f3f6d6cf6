"""Folders of images, with or without a folder for each class."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resnet_deploy._files import sha256_file
from resnet_deploy._text import text_of
from resnet_deploy.data.images import EXTENSIONS, MAX_FILE_BYTES
from resnet_deploy.data.labels import ClassOrder, check_names, order_folders
from resnet_deploy.errors import DataError

# What the parts of a data set are called, the one that is judged on first.
_PARTS = ("val", "valid", "validation", "test", "testing", "train", "training")


@dataclass(frozen=True, kw_only=True)
class ImageFiles:
    """files: in order. labels: class indices, (files,) int64, and what is known of them; None where there are no classes."""

    root: Path
    files: list[Path]
    labels: NDArray[np.int64] | None
    order: ClassOrder | None
    notes: tuple[str, ...] = ()

    def digest(self) -> str:
        """Of names below the root and content, a line a file. What cannot be read has no content, and is skipped later."""
        with ThreadPoolExecutor() as pool:
            lines = zip(self.files, pool.map(_content, self.files), strict=True)
            return "\n".join(f"{file.relative_to(self.root)} {content}" for file, content in lines)


def list_files(
    root: Path, *, class_names: Sequence[str] | None, num_classes: int | None, labels_needed: bool = True
) -> ImageFiles:
    """List a folder's images and, where they lie in folders of classes, their labels. Hidden ones are left out.

    What has an image's suffix and cannot be read (a link to nothing, a pipe) is listed, so that it is skipped by name.

    Args:
        root: the folder.
        class_names, num_classes: the model's, as in `open_data`.
        labels_needed: False to drop labels that cannot be told, with a note.

    Raises:
        DataError: no images; images beside class folders; a class without images; folders that are the parts of a data set;
            and, where labels are needed, folders that are not the model's classes.
    """
    source = text_of(root)
    direct, classes = _contents(root)
    if direct and any(classes.values()):
        nested = next(files[0] for files in classes.values() if files)
        raise DataError(
            f"{source} has images beside class folders ({direct[0].name}, {nested.relative_to(root)}); "
            "use one folder a class, or one folder of images"
        )
    if direct:
        return ImageFiles(root=root, files=direct, labels=None, order=None)
    if not any(classes.values()):
        raise DataError(f"{source} has no images ({', '.join(sorted(EXTENSIONS))})")
    _check_parts(root, classes, class_names)
    files = [file for images in classes.values() for file in images]
    try:
        order = _order(source, classes, class_names, num_classes)
    except DataError as exc:
        if labels_needed:
            raise
        return ImageFiles(root=root, files=files, labels=None, order=None, notes=(f"labels are left out: {exc}",))
    labels = np.repeat(np.asarray(order.indices, np.int64), [len(images) for images in classes.values()])
    return ImageFiles(root=root, files=files, labels=labels, order=order, notes=order.notes)


def _contents(root: Path) -> tuple[list[Path], dict[str, list[Path]]]:
    """Images that lie in a folder itself, and those of each folder in it, sorted by name."""
    try:
        direct = _images_in(root, recursive=False)
        folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
        return direct, {folder.name: _images_in(folder) for folder in folders}
    except OSError as exc:
        raise DataError(f"{text_of(root)} cannot be read: {exc.strerror}") from exc


def _images_in(folder: Path, *, recursive: bool = True, above: frozenset[tuple[int, int]] = frozenset()) -> list[Path]:
    """Sorted; through links too, as ImageFolder, but not into a folder of `above` again."""
    status = folder.stat()
    identity = (status.st_dev, status.st_ino)
    if identity in above:
        return []
    files: list[Path] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            path = folder / entry.name
            if entry.name.startswith("."):
                continue
            if path.is_dir():
                files += _images_in(path, above=above | {identity}) if recursive else []
            elif path.suffix.lower() in EXTENSIONS:
                files.append(path)
    return sorted(files)


def _order(
    source: str, classes: dict[str, list[Path]], class_names: Sequence[str] | None, num_classes: int | None
) -> ClassOrder:
    check_names(list(classes), source=source)
    order = order_folders(list(classes), source=source, class_names=class_names, num_classes=num_classes)
    empty = [name for name, files in classes.items() if not files]
    if empty and order.label_order in {"sorted", "assumed"}:  # whether they count decides the labels of all that follow
        raise DataError(f"{source} has class folders without images ({', '.join(empty[:3])}); fill them or remove them")
    return order


def _check_parts(root: Path, classes: dict[str, list[Path]], class_names: Sequence[str] | None) -> None:
    """Raise DataError for folders that are the parts of a data set, as data/train and data/val, and no classes."""
    parts = {name.casefold(): name for name, files in classes.items() if files}
    if not set(parts) <= set(_PARTS) or set(parts.values()) <= set(class_names or ()):
        return
    first = next(parts[name] for name in _PARTS if name in parts)
    raise DataError(
        f"{text_of(root)} has {', '.join(parts.values())}: parts of a data set, not classes. Give one of them, "
        f"as in {text_of(root / first)}"
    )


def _content(file: Path) -> str:
    try:
        status = file.stat()
        regular = stat.S_ISREG(status.st_mode) and status.st_size <= MAX_FILE_BYTES
        return sha256_file(file) if regular else "not-read"
    except OSError as exc:
        return errno.errorcode.get(exc.errno or 0, "not-read")


def kind_of(source: str) -> str | None:
    """`folder` or `file`; None where nothing is there. Raises DataError for what is neither, or cannot be looked at."""
    try:
        mode = Path(source).stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as exc:
        raise DataError(f"{text_of(Path(source))} cannot be read: {exc.strerror}") from exc
    except ValueError:  # a NUL in the name
        return None
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise DataError(f"{text_of(Path(source))} is neither a folder nor a file; give a folder of images or an .npz file")
    return "folder" if stat.S_ISDIR(mode) else "file"
