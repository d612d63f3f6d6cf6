"""From a decoded image to what the model takes: torchvision's evaluation transform, bit for bit.

The ImageClassification preset on PIL images: resize the shorter edge with antialiased bilinear interpolation, crop the
centre, divide by 255, normalize. Ten crops are those of its TenCrop.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resnet_deploy.data.images import to_rgb
from resnet_deploy.errors import UsageError
from resnet_deploy.specs import InputFormat, Preprocessing

CENTRE = 4  # of ten crops
MAX_PIXELS = 100_000_000  # decoded, 300 MB; more is a mistake or an attack
LARGE_PIXELS = 25_000_000  # 75 MB decoded; larger images are decoded one at a time, else memory grows with the cores
_LARGE = threading.Lock()

Pixels = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Transform:
    """PIL image → (crop, crop, 3) uint8 or (3, crop, crop) float32 normalized; with ten crops, (10, ...).

    Attributes:
        preprocessing: size, crop, mean and deviation.
        input_format: uint8 pixels or normalized float32.
        crops: 1, the centre; or 10, the four corners, the centre, and the same of the mirrored image (1512.03385, section 4.1).
        max_pixels: of an image, as it is and resized; MAX_PIXELS where None.

    Raises:
        UsageError: crops that are not to be had.
        ValueError: an image that is too large, which is then not decoded, or that `to_rgb` cannot convert.
        OSError: a damaged image.
    """

    preprocessing: Preprocessing
    input_format: InputFormat
    crops: int = 1
    max_pixels: int | None = None

    def __post_init__(self) -> None:
        if self.crops not in {1, 10}:
            raise UsageError(f"crops are 1 or 10 of each image, not {self.crops}")
        if self.crops == 10 and self.preprocessing.resize < self.preprocessing.crop:
            raise UsageError(
                f"ten crops of {self.preprocessing.crop} pixels do not fit into images resized to {self.preprocessing.resize}"
            )

    def __call__(self, image: Image.Image) -> NDArray[Any]:
        pixels, crop = self._resized(image), self.preprocessing.crop
        return self.prepared(_center_crop(pixels, crop) if self.crops == 1 else _ten_crops(pixels, crop))

    def prepared(self, pixels: Pixels) -> NDArray[Any]:
        """Cropped pixels as the model takes them."""
        return pixels if self.input_format is InputFormat.UINT8 else normalize(pixels, self.preprocessing)

    def _resized(self, image: Image.Image) -> Pixels:
        short, long = sorted(image.size)
        resize = self.preprocessing.resize
        resized = (resize, int(resize * long / short))  # truncated, as torchvision does
        size = resized if image.width <= image.height else resized[::-1]
        most = self.max_pixels or MAX_PIXELS
        for width, height in (image.size, size):  # a sliver of 1x65535 pixels grows to 4 gigapixels
            if width * height > most:
                raise ValueError(f"{width}x{height} is more than {most // 10**6} megapixels")
        pixels = max(image.width * image.height, size[0] * size[1])
        with _LARGE if pixels > LARGE_PIXELS else contextlib.nullcontext():
            image = to_rgb(image)
            if size != image.size:
                image = image.resize(size, Image.Resampling.BILINEAR)
            return np.asarray(image)


def normalize(pixels: Pixels, preprocessing: Preprocessing) -> NDArray[np.float32]:
    """(x / 255 - mean) / std, in torchvision's order of operations.

    Args:
        pixels: (..., H, W, 3) uint8.
        preprocessing: has mean and std.

    Returns:
        (..., 3, H, W) float32.
    """
    mean = np.asarray(preprocessing.mean, np.float32)
    std = np.asarray(preprocessing.std, np.float32)
    scaled = (pixels.astype(np.float32) / np.float32(255) - mean) / std
    return np.ascontiguousarray(np.moveaxis(scaled, -1, -3))


def _center_crop(pixels: Pixels, crop: int) -> Pixels:
    """Crop the centre of (H, W, 3); an image smaller than the crop is padded with zeros, as torchvision does."""
    height, width = pixels.shape[:2]
    if min(height, width) < crop:
        top, left = max(crop - height, 0) // 2, max(crop - width, 0) // 2
        bottom, right = max(crop - height + 1, 0) // 2, max(crop - width + 1, 0) // 2
        pixels = np.pad(pixels, ((top, bottom), (left, right), (0, 0)))
        height, width = pixels.shape[:2]
    top, left = round((height - crop) / 2.0), round((width - crop) / 2.0)
    return np.ascontiguousarray(pixels[top : top + crop, left : left + crop])


def _ten_crops(pixels: Pixels, crop: int) -> Pixels:
    """(H, W, 3) → (10, crop, crop, 3): corners and centre, then those of the mirrored image."""
    mirrored = pixels[:, ::-1]
    return np.stack([view for image in (pixels, mirrored) for view in (*_corners(image, crop), _center_crop(image, crop))])


def _corners(pixels: Pixels, crop: int) -> list[Pixels]:
    height, width = pixels.shape[:2]
    return [pixels[top : top + crop, left : left + crop] for top in (0, height - crop) for left in (0, width - crop)]
