"""An image file as the model takes it, in bounded memory. What cannot be used is a reason in words, not an exception."""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_deploy.data.images import open_image, reason_of
from resnet_deploy.data.preprocessing import LARGE_PIXELS, Transform
from resnet_deploy.errors import StorageError
from resnet_deploy.serving.embedding.locks import FolderLock, InheritedLock

_REDUCED = 4  # a large JPEG is decoded at an eighth, a quarter or half, still so many times what it is resized to
# The machine fails, not the image: the run stops, and can go on later.
_MACHINE = {errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT}


@dataclass(frozen=True, kw_only=True)
class Decoder:
    """Path → the model's input for one image, or why there is none. max_pixels: an image of more is refused unread.
    large_lock: held while an image of more than 25 megapixels is decoded; None where no other process decodes.

    JPEGs of more than 25 megapixels are decoded at reduced scale; everything else is bit-equal to what `verify` reads.
    Raises StorageError where the storage fails, not the image.
    """

    transform: Transform
    max_pixels: int
    large_lock: InheritedLock | FolderLock | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return self._example.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._example.dtype

    @property
    def _example(self) -> NDArray[Any]:
        crop = self.transform.preprocessing.crop
        return self.transform.prepared(np.zeros((crop, crop, 3), np.uint8))

    def __call__(self, path: bytes) -> NDArray[Any] | str:
        try:
            return self._read(path)
        except OSError as exc:
            if exc.errno in _MACHINE:
                raise StorageError(f"cannot read {os.fsdecode(path)}: {exc.strerror}. Run the command again to go on") from exc
            return exc.strerror or reason_of(exc)
        except (MemoryError, StorageError):
            raise
        except Exception as exc:  # damaged files make PIL's plugins raise a dozen kinds
            return reason_of(exc)

    def _read(self, path: bytes) -> NDArray[Any]:
        with open_image(path) as image:
            pixels = image.width * image.height
            if pixels > self.max_pixels:
                raise ValueError(
                    f"{image.width}x{image.height} is {pixels / 1e6:,.1f} megapixels, more than {self.max_pixels / 1e6:,.1f}"
                )
            if pixels <= LARGE_PIXELS:
                return self.transform(image)
            least = _REDUCED * self.transform.preprocessing.resize
            with self.large_lock.held() if self.large_lock else contextlib.nullcontext():
                image.draft(None, (least, least))  # of a JPEG; nothing for other formats
                return self.transform(image)
