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


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """The shape of a residual network. Defaults are those of torchvision's ResNets.

    block: basic (two 3x3) or bottleneck (1x1, 3x3, 1x1). layers: blocks in each stage. widths: channels of each stage,
    before a bottleneck's expansion by 4. groups, width_per_group: the 3x3's cardinality, and its width at 64 channels
    (1611.05431; 1605.07146 with one group).

    stem: imagenet (7x7 and max-pooling), cifar (one 3x3), deep (three 3x3, 1812.01187's C). shortcut, where the shape
    changes: A (identity padded with zeros), B (projection), D (average-pooled projection, 1812.01187); C (projection
    everywhere); none (a plain network). stride_on, of a bottleneck: 3x3 ("v1.5", torchvision and others) or 1x1 (the paper).

    activation: where a block's batch norms and ReLUs stand, by 1603.05027, figure 4: original (a), bn-after-add (b),
    relu-before-add (c), relu-only (d) or full (e) pre-activation. squeeze: reduction of squeeze-and-excitation (1709.01507),
    0 without. replace_stride_with_dilation: for each stage but the first (1706.05587).
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
        if not self.layers or min(self.layers) < 1 or len(self.layers) > len(self.widths):
            raise UsageError(f"layers {self.layers} must be 1 to {len(self.widths)} stages of at least 1 block")
        if min(self.groups, self.width_per_group, self.num_classes) < 1 or self.squeeze < 0:
            raise UsageError("groups, width_per_group and classes must be at least 1")
        if self.block == "basic" and (self.groups, self.width_per_group) != (1, 64):
            raise UsageError("a basic block has one group of base width 64; groups need block=bottleneck")
        if (dilate := self.replace_stride_with_dilation) and len(dilate) != len(self.layers) - 1:
            raise UsageError(f"replace_stride_with_dilation needs {len(self.layers) - 1} values; found {len(dilate)}")
        if self.activation in {"bn-after-add", "relu-before-add"} and self.squeeze:
            raise UsageError("squeeze-and-excitation is for the original and the pre-activation blocks")

    @property
    def stages(self) -> tuple[tuple[int, int, int, int], ...]:
        """Of each stage: width, blocks, stride of its first block, and dilation."""
        found, dilation = [], 1
        for index, (width, depth) in enumerate(zip(self.widths, self.layers, strict=False)):
            stride = 1 if index == 0 else 2
            if index and self.replace_stride_with_dilation and self.replace_stride_with_dilation[index - 1]:
                dilation, stride = dilation * stride, 1
            found.append((width, depth, stride, dilation))
        return tuple(found)

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
            raise UsageError(f"output_stride={text} is not to be had; choose from {', '.join(map(str, strides))}")
        return tuple(found > int(text) for found in strides)


def squeezed(channels: int, reduction: int) -> int:
    """Inner width of squeeze-and-excitation, rounded to a multiple of 8 as timm does."""
    return max(8, (channels // reduction + 4) // 8 * 8)


def _read(name: str, text: str, like: Any) -> Any:
    try:
        if isinstance(like, tuple):
            numbers = tuple(int(part) for part in text.split("-"))
            return tuple(map(bool, numbers)) if name == "replace_stride_with_dilation" else numbers
        return int(text) if isinstance(like, int) else text
    except ValueError:
        raise UsageError(f"{name}={text} is not a number, or numbers joined by -, as in layers=3-4-6-3") from None
