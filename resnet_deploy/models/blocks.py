"""The residual blocks. Attribute names are the contract with published checkpoints (torchvision's)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def conv3x3(in_channels: int, out_channels: int, *, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, groups=groups, bias=False)


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


class BasicBlock(nn.Module):
    """Two 3x3 convolutions (1512.03385, figure 5 left). (N, C_in, H, W) → (N, width, H/stride, W/stride)."""

    expansion = 1

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        stride: int,
        groups: int,
        width_per_group: int,
        downsample: nn.Module | None,
    ) -> None:
        super().__init__()
        if groups != 1 or width_per_group != 64:
            raise ValueError("a basic block has one group of base width 64")
        self.conv1 = conv3x3(in_channels, width, stride=stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = downsample
        self.relu2 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += identity
        return self.relu2(out)


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1 (1512.03385, figure 5 right), with the stride on the 3x3: "v1.5", which torchvision trains.

    Grouped, it is the block of ResNeXt (1611.05431, figure 3c). (N, C_in, H, W) → (N, 4 * width, H/stride, W/stride).
    """

    expansion = 4

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        stride: int,
        groups: int,
        width_per_group: int,
        downsample: nn.Module | None,
    ) -> None:
        super().__init__()
        inner = int(width * (width_per_group / 64.0)) * groups
        self.conv1 = conv1x1(in_channels, inner)
        self.bn1 = nn.BatchNorm2d(inner)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(inner, inner, stride=stride, groups=groups)
        self.bn2 = nn.BatchNorm2d(inner)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv3 = conv1x1(inner, width * self.expansion)
        self.bn3 = nn.BatchNorm2d(width * self.expansion)
        self.downsample = downsample
        self.relu3 = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        identity = x if self.downsample is None else self.downsample(x)
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.relu2(self.bn2(self.conv2(out)))
        out = self.bn3(self.conv3(out))
        out += identity
        return self.relu3(out)


def projection(in_channels: int, out_channels: int, *, stride: int) -> nn.Module:
    """Shortcut B of 1512.03385, section 3.3: a 1x1 convolution where the shape changes."""
    return nn.Sequential(conv1x1(in_channels, out_channels, stride=stride), nn.BatchNorm2d(out_channels))


class GlobalAvgPool(nn.Module):
    """(N, C, H, W) → (N, C). nn.AdaptiveAvgPool2d(1) has the same values, but on channels-last input it exports as
    as_strided: nine shape operators and a Gather in place of one ReduceMean."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


def imagenet_stem(channels: int) -> dict[str, nn.Module]:
    """7x7 stride 2, then 3x3 max-pooling stride 2: 224 → 56 pixels."""
    return {
        "conv1": nn.Conv2d(3, channels, 7, stride=2, padding=3, bias=False),
        "bn1": nn.BatchNorm2d(channels),
        "relu": nn.ReLU(inplace=True),
        "maxpool": nn.MaxPool2d(3, stride=2, padding=1),
    }


def cifar_stem(channels: int) -> dict[str, nn.Module]:
    """One 3x3 convolution, full resolution (1512.03385, section 4.2)."""
    return {
        "conv1": conv3x3(3, channels),
        "bn1": nn.BatchNorm2d(channels),
        "relu": nn.ReLU(inplace=True),
        "maxpool": nn.Identity(),
    }


def initialize(module: nn.Module) -> None:
    """He initialization (1502.01852) of every convolution by its fan-out; batch norms start as the identity."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, nn.BatchNorm2d):
            torch.nn.init.ones_(layer.weight)
            torch.nn.init.zeros_(layer.bias)
