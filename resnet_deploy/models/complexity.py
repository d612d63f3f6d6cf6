"""What a network costs: parameters, multiply-accumulates, activations and memory traffic, counted from its shape alone.

Nothing is built: a thousand layers are counted in milliseconds, without torch. The tests count the modules themselves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from resnet_deploy.models.config import ResNetConfig, squeezed
from resnet_deploy.models.registry import Architecture


@dataclass(frozen=True, kw_only=True)
class Complexity:
    """What an architecture costs.

    Attributes:
        parameters: learned values.
        macs: multiply-accumulates of one image's convolutions and matrix products.
        activations: elements that the convolutions put out for one image (2003.13678, section 3).
    """

    parameters: int = 0
    macs: int = 0
    activations: int = 0

    def __add__(self, other: Complexity) -> Complexity:
        return Complexity(
            parameters=self.parameters + other.parameters, macs=self.macs + other.macs,
            activations=self.activations + other.activations,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One operation as an engine runs it, on one image: what follows a convolution one by one is fused into it.

    Attributes:
        kind: conv, linear, pool, pad (shortcut A) or pointwise.
        macs: multiply-accumulates.
        parameters: learned values, with those of its batch norm.
        weights: values that it reads whatever the batch.
        reads, writes: elements of activations; an addition's second operand is read by the convolution that it is fused
            into, and every input is read whole, once.
    """

    kind: str
    macs: int = 0
    parameters: int = 0
    weights: int = 0
    reads: int = 0
    writes: int = 0


def complexity(row: Architecture, *, num_classes: int | None = None, image_size: int | None = None) -> Complexity:
    """Count an architecture; an ensemble is the sum of its members.

    Args:
        row: the architecture.
        num_classes: of the classifier; by default its own.
        image_size: pixels, square; by default its own.

    Returns:
        The counts, of one image.
    """
    operations = kernels(row, num_classes=num_classes, image_size=image_size)
    return Complexity(
        parameters=sum(kernel.parameters for kernel in operations),
        macs=sum(kernel.macs for kernel in operations),
        activations=sum(kernel.writes for kernel in operations if kernel.kind == "conv"),
    )


def kernels(row: Architecture, *, num_classes: int | None = None, image_size: int | None = None) -> tuple[Kernel, ...]:
    """The fused operations of an architecture; an ensemble's are those of its members, one after the other.

    Batch norms and ReLUs are free where they follow a convolution or an addition whose sum nothing else needs. A
    pre-activation whose sum the shortcut needs too is a pointwise kernel of its own.

    Args:
        row: the architecture.
        num_classes: of the classifier; by default its own.
        image_size: pixels, square; by default its own.

    Returns:
        The operations, in order.
    """
    if row.members:
        members = (kernels(member, num_classes=num_classes, image_size=image_size) for member in row.members)
        return tuple(kernel for member in members for kernel in member)
    config, size = row.with_classes(num_classes or row.num_classes), image_size or row.image_size
    operations, size = _stem(config, size)
    channels = config.widths[0]
    for stage, (width, depth, stride, _) in enumerate(config.stages):
        for index in range(depth):
            block, size = _block(config, channels, width, size, stride if index == 0 else 1, stage == index == 0)
            operations += block
            channels = width * config.expansion
    last_norm = 2 * channels if config.activation == "full" else 0
    classifier = channels * config.num_classes
    operations += [
        Kernel(kind="pool", parameters=last_norm, reads=channels * size**2, writes=channels),
        Kernel(
            kind="linear", macs=classifier, parameters=classifier + config.num_classes, weights=classifier,
            reads=channels, writes=config.num_classes,
        ),
    ]  # fmt: skip
    return tuple(operations)


def _conv(
    in_channels: int, out_channels: int, kernel: int, size: int, *,
    stride: int = 1, groups: int = 1, bias: bool = False, norm: int | None = None, skip: int = 0,
) -> Kernel:  # fmt: skip
    """A convolution of a map of size x size. norm: channels of its batch norm, by default its output's. skip: elements
    that are added to what it puts out."""
    weights, after = in_channels // groups * out_channels * kernel**2, _half(size, stride)
    normed = out_channels if norm is None else norm
    return Kernel(
        kind="conv", macs=weights * after**2, parameters=weights + out_channels * bias + 2 * normed, weights=weights,
        reads=in_channels * size**2 + skip, writes=out_channels * after**2,
    )  # fmt: skip


def _pool(channels: int, size: int) -> Kernel:
    return Kernel(kind="pool", reads=channels * size**2, writes=channels * _half(size) ** 2)


def _half(size: int, stride: int = 2) -> int:
    """Of every strided layer here: padding is half the kernel, so the size is divided and rounded up."""
    return -(-size // stride)


def _stem(config: ResNetConfig, size: int) -> tuple[list[Kernel], int]:
    width = config.widths[0]
    if config.stem == "cifar":
        return [_conv(3, width, 3, size)], size
    after = _half(size)
    if config.stem == "imagenet":
        convs = [_conv(3, width, 7, size, stride=2)]
    else:
        narrow = width // 2
        convs = [_conv(3, narrow, 3, size, stride=2), _conv(narrow, narrow, 3, after), _conv(narrow, width, 3, after)]
    return [*convs, _pool(width, after)], _half(after)


def _block(config: ResNetConfig, channels: int, width: int, size: int, stride: int, enters: bool) -> tuple[list[Kernel], int]:
    """One block, and the size that leaves it."""
    out, after = width * config.expansion, _half(size, stride)
    shortcut = _shortcut(config, channels, out, size, stride)
    residual, full = config.shortcut != "none", config.activation == "full"
    before = []
    # With full pre-activation, a shortcut that changes the shape starts behind the activation: nothing needs the sum.
    if config.activation in {"full", "relu-only"} and residual and not enters and not (full and shortcut):
        before.append(Kernel(kind="pointwise", reads=channels * size**2, writes=channels * size**2))
    skip = out * after**2 if residual else 0
    convs = _convolutions(config, channels, width, size, stride, enters)
    if not config.squeeze:
        convs[-1] = replace(convs[-1], reads=convs[-1].reads + skip)
        return [*before, *shortcut, *convs], after
    narrow = squeezed(out, config.squeeze)
    gate = [
        Kernel(kind="pool", reads=out * after**2, writes=out),
        _conv(out, narrow, 1, 1, bias=True, norm=0), _conv(narrow, out, 1, 1, bias=True, norm=0),
        Kernel(kind="pointwise", reads=out * after**2 + out + skip, writes=out * after**2),
    ]  # fmt: skip
    return [*before, *shortcut, *convs, *gate], after


def _convolutions(config: ResNetConfig, channels: int, width: int, size: int, stride: int, enters: bool) -> list[Kernel]:
    """A block's own convolutions; with full pre-activation each one's norm stands before it, the first block's in the stem."""
    inner, after, full = config.inner(width), _half(size, stride), config.activation == "full"
    first = (0 if enters else channels) if full else None
    if config.block == "basic":
        return [
            _conv(channels, width, 3, size, stride=stride, norm=first),
            _conv(width, width, 3, after, norm=width),
        ]
    early, late = (stride, 1) if config.stride_on == "1x1" else (1, stride)
    return [
        _conv(channels, inner, 1, size, stride=early, norm=first),
        _conv(inner, inner, 3, _half(size, early), stride=late, groups=config.groups),
        _conv(inner, width * config.expansion, 1, after, norm=inner if full else None),
    ]


def _shortcut(config: ResNetConfig, channels: int, out: int, size: int, stride: int) -> list[Kernel]:
    changes, after = stride != 1 or channels != out, _half(size, stride)
    if config.shortcut == "none" or not (changes or config.shortcut == "C"):
        return []
    if config.shortcut == "A":
        return [Kernel(kind="pad", reads=channels * size**2, writes=out * after**2)]
    if config.activation != "original":
        return [_conv(channels, out, 1, size, stride=stride, norm=0)]
    if config.shortcut == "D" and stride > 1:
        return [_pool(channels, size), _conv(channels, out, 1, after)]
    return [_conv(channels, out, 1, size, stride=stride)]
