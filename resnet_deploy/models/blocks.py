"""The residual blocks of 1512.03385 and its relatives. Attribute names are the contract with published checkpoints
(torchvision's and timm's)."""

from __future__ import annotations

from torch import Tensor, nn

from resnet_deploy.models.config import ResNetConfig, squeezed


def conv3x3(in_channels: int, out_channels: int, *, stride: int = 1, groups: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(
        in_channels, out_channels, 3, stride=stride, padding=dilation, groups=groups, dilation=dilation, bias=False
    )


def conv1x1(in_channels: int, out_channels: int, *, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)


class PaddedIdentity(nn.Module):
    """Shortcut A of 1512.03385, section 3.3: subsample, and fill the new channels with zeros; no parameters.

    The zeros are split between both ends, as in the CIFAR implementations whose checkpoints are in use.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        before = (out_channels - in_channels) // 2
        self.stride = stride
        self.padding = (0, 0, 0, 0, before, out_channels - in_channels - before)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.pad(x[:, :, :: self.stride, :: self.stride], self.padding)


class SqueezeExcitation(nn.Module):
    """Channel attention of 1709.01507, (N, C, H, W) → the same, with timm's names."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        inner = squeezed(channels, reduction)
        self.fc1 = nn.Conv2d(channels, inner, 1)
        self.relu = nn.ReLU(inplace=True)
        self.fc2 = nn.Conv2d(inner, channels, 1)
        self.gate = nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        scale = self.fc2(self.relu(self.fc1(x.mean((2, 3), keepdim=True))))
        return x * self.gate(scale)


def convolutions(
    config: ResNetConfig, in_channels: int, width: int, *, stride: int, dilation: int, entry_dilation: int
) -> list[nn.Conv2d]:
    """A block's convolutions in order: two of a basic block, three of a bottleneck."""
    if config.block == "basic":
        first = conv3x3(in_channels, width, stride=stride, dilation=entry_dilation)
        return [first, conv3x3(width, width, dilation=dilation)]
    inner = config.inner(width)
    early, late = (stride, 1) if config.stride_on == "1x1" else (1, stride)
    return [
        conv1x1(in_channels, inner, stride=early),
        conv3x3(inner, inner, stride=late, groups=config.groups, dilation=entry_dilation),
        conv1x1(inner, width * config.expansion),
    ]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (1512.03385, figure 5 left). (N, C_in, H, W) → (N, width, H/stride, W/stride).

    entry_dilation: of the first convolution, dilation: of the second (they differ where a dilated stage begins).
    """

    def __init__(
        self, config: ResNetConfig, in_channels: int, width: int, *, stride: int, dilation: int, entry_dilation: int
    ) -> None:
        super().__init__()
        convs = convolutions(config, in_channels, width, stride=stride, dilation=dilation, entry_dilation=entry_dilation)
        self.conv1, conv2 = convs
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = conv2
        self.bn2 = nn.BatchNorm2d(width)
        if config.squeeze:
            self.se = SqueezeExcitation(width, config.squeeze)
        self.downsample = shortcut(config, in_channels, width, stride=stride)
        self.relu2 = nn.ReLU(inplace=True)
        self._residual, self._squeezed = config.shortcut != "none", config.squeeze > 0

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self._squeezed:
            out = self.se(out)
        if self._residual:
            out += x if self.downsample is None else self.downsample(x)
        return self.relu2(out)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 (1512.03385, figure 5 right), with the stride on the 3x3 ("v1.5") or on the first 1x1 (the paper).

    Grouped, it is the block of ResNeXt (1611.05431, figure 3c). (N, C_in, H, W) → (N, 4 * width, H/stride, W/stride).
    """

    def __init__(
        self, config: ResNetConfig, in_channels: int, width: int, *, stride: int, dilation: int, entry_dilation: int
    ) -> None:
        super().__init__()
        convs = convolutions(config, in_channels, width, stride=stride, dilation=dilation, entry_dilation=entry_dilation)
        self.conv1, conv2, conv3 = convs
        inner, out_channels = conv2.out_channels, conv3.out_channels
        self.bn1 = nn.BatchNorm2d(inner)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = conv2
        self.bn2 = nn.BatchNorm2d(inner)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = conv3
        self.bn3 = nn.BatchNorm2d(out_channels)
        if config.squeeze:
            self.se = SqueezeExcitation(out_channels, config.squeeze)
        self.downsample = shortcut(config, in_channels, out_channels, stride=stride)
        self.relu3 = nn.ReLU(inplace=True)
        self._residual, self._squeezed = config.shortcut != "none", config.squeeze > 0

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        if self._squeezed:
            out = self.se(out)
        if self._residual:
            out += x if self.downsample is None else self.downsample(x)
        return self.relu3(out)


def shortcut(config: ResNetConfig, in_channels: int, out_channels: int, *, stride: int) -> nn.Module | None:
    """What stands beside a block: None for the identity. 1512.03385, section 3.3, and 1812.01187, figure 2."""
    changes = stride != 1 or in_channels != out_channels
    if config.shortcut == "none" or not (changes or config.shortcut == "C"):
        return None
    if config.shortcut == "A":
        return PaddedIdentity(in_channels, out_channels, stride=stride)
    if config.activation != "original":
        return conv1x1(in_channels, out_channels, stride=stride)  # 1603.05027's: the block's own norms do
    if config.shortcut == "D":
        pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity()
        return nn.Sequential(pool, conv1x1(in_channels, out_channels), nn.BatchNorm2d(out_channels))
    return nn.Sequential(conv1x1(in_channels, out_channels, stride=stride), nn.BatchNorm2d(out_channels))


class GlobalAvgPool(nn.Module):
    """(N, C, H, W) → (N, C). nn.AdaptiveAvgPool2d(1) has the same values, but on channels-last input it exports as
    as_strided: nine shape operators and a Gather in place of one ReduceMean."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


def stem(kind: str, channels: int) -> dict[str, nn.Module]:
    """The layers before the first stage, by the names of their attributes. (N, 3, H, W) → (N, channels, ...).

    imagenet: 7x7 stride 2 and 3x3 max-pooling stride 2, 224 → 56 pixels. deep: three 3x3 in the 7x7's place. cifar: one
    3x3, full resolution (1512.03385, section 4.2).
    """
    conv: nn.Module
    if kind == "cifar":
        conv = conv3x3(3, channels)
    elif kind == "deep":
        half = channels // 2
        conv = nn.Sequential(
            conv3x3(3, half, stride=2), nn.BatchNorm2d(half), nn.ReLU(inplace=True),
            conv3x3(half, half), nn.BatchNorm2d(half), nn.ReLU(inplace=True),
            conv3x3(half, channels),
        )  # fmt: skip
    else:
        conv = nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False)
    pool = nn.Identity() if kind == "cifar" else nn.MaxPool2d(3, stride=2, padding=1)
    return {"conv1": conv, "bn1": nn.BatchNorm2d(channels), "relu": nn.ReLU(inplace=True), "maxpool": pool}


def initialize(module: nn.Module) -> None:
    """He initialization (1502.01852) of every convolution by its fan-out; batch norms start as the identity."""
    for layer in module.modules():
        if (
            isinstance(layer, nn.Conv2d) and not layer.weight.is_meta
        ):  # there are no values, and torch imports a compiler for it
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
