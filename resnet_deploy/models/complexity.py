"""What a network costs: parameters, multiply-accumulates and activations, counted from its shape alone.

Nothing is built: a thousand layers are counted in a millisecond, without torch. The tests count the modules themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

from resnet_deploy.models.config import ResNetConfig, squeezed
from resnet_deploy.models.registry import Architecture


@dataclass(frozen=True, kw_only=True)
class Complexity:
    """parameters: learned values. macs: multiply-accumulates of one image's convolutions and matrix products.
    activations: elements that the convolutions put out for one image (2003.13678, section 3)."""

    parameters: int = 0
    macs: int = 0
    activations: int = 0

    def __add__(self, other: Complexity) -> Complexity:
        return Complexity(
            parameters=self.parameters + other.parameters, macs=self.macs + other.macs,
            activations=self.activations + other.activations,
        )  # fmt: skip


def complexity(row: Architecture, *, num_classes: int | None = None, image_size: int | None = None) -> Complexity:
    """Count an architecture; an ensemble is the sum of its members. image_size: pixels, square; by default its own."""
    if row.members:
        members = [complexity(member, num_classes=num_classes, image_size=image_size) for member in row.members]
        return sum(members, Complexity())
    config, size = row.with_classes(num_classes or row.num_classes), image_size or row.image_size
    total, size = _stem(config, size)
    channels = config.widths[0]
    for stage, (width, depth, stride, _) in enumerate(config.stages):
        for index in range(depth):
            enters = stage == index == 0
            block, size = _block(config, channels, width, size, stride if index == 0 else 1, enters)
            total, channels = total + block, width * config.expansion
    if config.activation == "full":
        total += _norm(channels)
    classifier = channels * config.num_classes
    return total + Complexity(parameters=classifier + config.num_classes, macs=classifier)


def _conv(in_channels: int, out_channels: int, kernel: int, size: int, *, groups: int = 1, bias: bool = False) -> Complexity:
    """A convolution whose output is size x size."""
    weights = in_channels // groups * out_channels * kernel**2
    return Complexity(
        parameters=weights + out_channels * bias, macs=weights * size**2, activations=out_channels * size**2
    )  # fmt: skip


def _norm(channels: int) -> Complexity:
    return Complexity(parameters=2 * channels)


def _half(size: int, stride: int = 2) -> int:
    """Of every strided layer here: padding is half the kernel, so the size is divided and rounded up."""
    return -(-size // stride)


def _stem(config: ResNetConfig, size: int) -> tuple[Complexity, int]:
    width = config.widths[0]
    if config.stem == "cifar":
        return _conv(3, width, 3, size) + _norm(width), size
    size = _half(size)
    if config.stem == "imagenet":
        return _conv(3, width, 7, size) + _norm(width), _half(size)
    narrow = width // 2
    convs = _conv(3, narrow, 3, size) + _conv(narrow, narrow, 3, size) + _conv(narrow, width, 3, size)
    return convs + _norm(narrow) + _norm(narrow) + _norm(width), _half(size)


def _block(config: ResNetConfig, channels: int, width: int, size: int, stride: int, enters: bool) -> tuple[Complexity, int]:
    """One block, and the size that leaves it."""
    inner, out, after = config.inner(width), width * config.expansion, _half(size, stride)
    if config.block == "basic":
        total = _conv(channels, width, 3, after) + _conv(width, width, 3, after)
        normed = [width, width]
    else:
        first = after if config.stride_on == "1x1" else size
        total = _conv(channels, inner, 1, first) + _conv(inner, inner, 3, after, groups=config.groups)
        total += _conv(inner, out, 1, after)
        normed = [inner, inner, out]
    if config.activation == "full":  # each norm stands before its convolution; the first block's is the stem's
        normed = [*([] if enters else [channels]), *normed[:-1]]
    for norm in normed:
        total += _norm(norm)
    if config.squeeze:
        narrow = squeezed(out, config.squeeze)
        total += _conv(out, narrow, 1, 1, bias=True) + _conv(narrow, out, 1, 1, bias=True)
    return total + _shortcut(config, channels, out, after, stride), after


def _shortcut(config: ResNetConfig, channels: int, out: int, size: int, stride: int) -> Complexity:
    changes = stride != 1 or channels != out
    if config.shortcut in {"none", "A"} or not (changes or config.shortcut == "C"):
        return Complexity()
    projection = _conv(channels, out, 1, size)
    return projection + _norm(out) if config.activation == "original" else projection
