"""The shape of a residual network, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from resnet_deploy.errors import UsageError

CHOICES: dict[str, tuple[str, ...]] = {
    "block": ("basic", "bottleneck"),
    "stem": ("imagenet", "cifar", "deep"),
    "shortcut": ("A", "B", "C", "D", "none"),
    "stride_on": ("3x3", "1x1"),
    "activation": ("original", "bn-after-add", "relu-before-add", "relu-only", "full"),
}

MAX_CLASSES = 10_000_000  # the largest known classifiers, of faces, have some two million
MAX_BLOCKS = 2_000  # of a network; 1603.05027's deepest has 333, and building takes a second for 500
MAX_PARAMETERS = 1 << 31  # 8.6 GB in FP32
# What each option's numbers may be, so that none asks for more than a machine has, or for a layer without channels.
RANGES: dict[str, tuple[int, int]] = {
    "layers": (1, MAX_BLOCKS), "widths": (1, 65_536), "groups": (1, 4096), "width_per_group": (1, 4096), "squeeze": (0, 4096),
    "num_classes": (1, MAX_CLASSES),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """The shape of a residual network. Defaults are those of torchvision's ResNets.

    Attributes:
        block: basic (two 3x3) or bottleneck (1x1, 3x3, 1x1).
        layers: blocks in each stage.
        widths: channels of each stage, before a bottleneck's expansion by 4.
        groups, width_per_group: the 3x3's cardinality, and its width at 64 channels (1611.05431; 1605.07146 with one group).
        stem: imagenet (7x7 and max-pooling), cifar (one 3x3), deep (three 3x3, 1812.01187's C).
        shortcut: where the shape changes: A (identity padded with zeros), B (projection), D (average-pooled projection,
            1812.01187); C (projection everywhere); none (a plain network).
        stride_on: of a bottleneck: 3x3 ("v1.5", torchvision and others) or 1x1 (the paper).
        activation: where a block's batch norms and ReLUs stand, by 1603.05027, figure 4: original (a), bn-after-add (b),
            relu-before-add (c), relu-only (d) or full (e) pre-activation.
        squeeze: reduction of squeeze-and-excitation (1709.01507), 0 without.
        replace_stride_with_dilation: for each stage but the first (1706.05587).
        num_classes: of the classifier.
    """

    block: str
    layers: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512)
    groups: int = 1
    width_per_group: int = 64
    stem: str = "imagenet"
    shortcut: str = "B"
    stride_on: str = "3x3"
    activation: str = "original"
    squeeze: int = 0
    replace_stride_with_dilation: tuple[bool, ...] = ()
    num_classes: int = 1000

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            if (value := getattr(self, name)) not in choices:
                raise UsageError(f"unknown {name} {value!r}; choose from {', '.join(choices)}")
        for name, (least, most) in RANGES.items():
            value = getattr(self, name)
            _check_range(name, value if isinstance(value, tuple) else (value,), least, most)
        if not 1 <= len(self.layers) <= len(self.widths):
            raise UsageError(f"layers {_joined(self.layers)} must be 1 to {len(self.widths)} stages, as many as widths")
        if self.block == "basic" and (self.groups, self.width_per_group) != (1, 64):
            raise UsageError("a basic block has one group of base width 64; groups need block=bottleneck")
        if (dilate := self.replace_stride_with_dilation) and len(dilate) != len(self.layers) - 1:
            raise UsageError(f"replace_stride_with_dilation needs {len(self.layers) - 1} values; found {len(dilate)}")
        if self.activation in {"bn-after-add", "relu-before-add"} and self.squeeze:
            raise UsageError("squeeze-and-excitation is for the original and the pre-activation blocks")
        self._check_size()

    def _check_size(self) -> None:
        """Refuse a network that no machine builds, before anything is built."""
        if (blocks := sum(self.layers)) > MAX_BLOCKS:
            raise UsageError(f"layers {_joined(self.layers)} are {blocks} blocks; a network has at most {MAX_BLOCKS}")
        parameters = self.widths[len(self.layers) - 1] * self.expansion * self.num_classes
        for width, depth in zip(self.widths, self.layers, strict=False):
            inner = self.inner(width)
            if inner < 1:
                raise UsageError(f"width_per_group={self.width_per_group} leaves a stage of width {width} without channels")
            block = 18 * width**2 if self.block == "basic" else 8 * width * inner + 9 * inner**2 // self.groups
            parameters += depth * block
        if parameters > MAX_PARAMETERS:
            raise UsageError(
                f"this network would have some {parameters:.2g} parameters; at most {MAX_PARAMETERS:.2g} are built"
            )

    @property
    def stages(self) -> tuple[tuple[int, int, int, int], ...]:
        """Of each stage: width, blocks, stride of its first block, and dilation."""
        stages, dilation = [], 1
        for index, (width, depth) in enumerate(zip(self.widths, self.layers, strict=False)):
            stride = 1 if index == 0 else 2
            if index and self.replace_stride_with_dilation and self.replace_stride_with_dilation[index - 1]:
                dilation, stride = dilation * stride, 1
            stages.append((width, depth, stride, dilation))
        return tuple(stages)

    @property
    def expansion(self) -> int:
        """Channels that leave a block, for each of its width."""
        return 4 if self.block == "bottleneck" else 1

    def inner(self, width: int) -> int:
        """Channels of a bottleneck's 3x3."""
        return int(width * (self.width_per_group / 64.0)) * self.groups

    def changed(self, changes: dict[str, str]) -> ResNetConfig:
        """With options read from text, as in a model's name: `layers=3-4-6-3`, `shortcut=A`. Raises UsageError.

        output_stride=8 or 16 stands for the replace_stride_with_dilation that gives it.
        """
        known = {field.name: getattr(self, field.name) for field in fields(self)}
        values: dict[str, Any] = {}
        for name, text in changes.items():
            if name == "output_stride":
                values["replace_stride_with_dilation"] = self._dilated_to(text)
                continue
            if name not in known:
                raise UsageError(f"unknown option {name!r} of a model; choose from {', '.join(known)}")
            values[name] = _read(name, text, known[name])
        return replace(self, **values)

    def _dilated_to(self, text: str) -> tuple[bool, ...]:
        stride = 1 if self.stem == "cifar" else 4
        strides = [stride := stride * 2 for _ in self.layers[1:]]
        if text not in map(str, strides):
            raise UsageError(f"output_stride={text} is not possible; choose from {', '.join(map(str, strides))}")
        return tuple(reached > int(text) for reached in strides)


def squeezed(channels: int, reduction: int) -> int:
    """Inner width of squeeze-and-excitation, rounded to a multiple of 8 as timm does."""
    return max(8, (channels // reduction + 4) // 8 * 8)


def _check_range(name: str, values: tuple[Any, ...], least: int, most: int) -> None:
    for value in values:
        if type(value) is not int or not least <= value <= most:
            shown = str(value) if type(value) is not int or abs(value) < 10**18 else f"a number of {value.bit_length()} bits"
            raise UsageError(f"{name} has {shown}; expected whole numbers from {least} to {most}")


def _joined(values: tuple[int, ...]) -> str:
    return "-".join(map(str, values))


def _read(name: str, text: str, like: Any) -> Any:
    try:
        if isinstance(like, tuple):
            numbers = tuple(map(_number, text.split("-")))
            return tuple(map(bool, numbers)) if name == "replace_stride_with_dilation" else numbers
        return _number(text) if isinstance(like, int) else text
    except ValueError:
        raise UsageError(f"{name}={text[:40]} is not a number, or numbers joined by -, as in layers=3-4-6-3") from None


def _number(text: str) -> int:
    """A number as it is written: no sign, no blank, no underscore, and no more digits than int() takes."""
    if not (text.isascii() and text.isdecimal()) or len(text) > 1000:
        raise ValueError
    return int(text)
