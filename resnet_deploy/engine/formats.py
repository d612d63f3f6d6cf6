"""Layouts in which a plan may take its images, so that no kernel has to bring them into the first convolution's own.

https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/advanced.html (I/O formats)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from resnet_deploy.errors import UsageError

if TYPE_CHECKING:  # the signatures of each package in turn: tests/typing
    from tensorrt_types import ITensor, TensorRt


@dataclass(frozen=True, kw_only=True)
class InputLayout:
    """Images as [N][H][W][channels], the channels after the image's own being zero; linear is [N][C][H][W].

    Attributes:
        channels: in memory; the image's own number where None.
        types: of TensorRT, that the layout is there for.
    """

    channels: int | None
    types: tuple[str, ...]


# By TensorFormat's names in lower case. For an image of fewer channels than these, CHW4 and CHW32 are that order too.
LAYOUTS = {
    "hwc": InputLayout(channels=None, types=("FLOAT", "HALF")),
    "chw4": InputLayout(channels=4, types=("HALF", "INT8")),
    "hwc8": InputLayout(channels=8, types=("HALF",)),
    "chw32": InputLayout(channels=32, types=("FLOAT", "HALF", "INT8")),
}
LINEAR = "linear"
INPUT_FORMATS = (LINEAR, *LAYOUTS)


def set_input_format(trt: TensorRt, tensor: ITensor, name: str) -> None:
    """Let a network take its input in one layout alone. Raises UsageError where its type or shape does not have that."""
    layout, shape, kind = LAYOUTS[name], tuple(tensor.shape), tensor.dtype.name
    if kind not in layout.types:
        advice = {
            "UINT8": "pixels are [N][H][W][C] already, and their first kernel normalizes them: build without it",
            "FLOAT": "export that precision with --native-io, and its input is FP16",
        }.get(kind, "build without it")
        raise UsageError(f"--input-format {name} is for {' and '.join(layout.types)} inputs, and this one is {kind}: {advice}")
    if len(shape) != 4 or (layout.channels is not None and shape[1] > layout.channels):
        most = "" if layout.channels is None else f" of at most {layout.channels} channels"
        raise UsageError(f"--input-format {name} is for images [N][C][H][W]{most}; found {list(shape)}")
    tensor.allowed_formats = 1 << int(getattr(trt.TensorFormat, name.upper()))


def layout_of(name: str) -> InputLayout | None:
    """The layout of a format that an engine tells, by TensorFormat's name; None for linear. Raises UsageError for another."""
    if name == LINEAR.upper():
        return None
    if name.lower() not in LAYOUTS:
        raise UsageError(f"the plan takes its input as {name}; known are {', '.join(INPUT_FORMATS)}: build it again")
    return LAYOUTS[name.lower()]
