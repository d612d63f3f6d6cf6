"""Residual networks as a stem, stages of blocks, and a classifier."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from resnet_deploy.models import blocks
from resnet_deploy.models.config import ResNetConfig
from resnet_deploy.models.preact import RearrangedBlock


class ResNet(nn.Module):
    """A residual network: (N, 3, H, W) float → (N, num_classes) logits. Its state dict has torchvision's keys.

    architecture: the name that `create_model` made it by; None of one that was built from its configuration alone.
    """

    architecture: str | None = None

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        for name, module in blocks.stem(config.stem, config.widths[0]).items():
            self.add_module(name, module)
        channels, entry_dilation = config.widths[0], 1
        for index, (width, depth, stride, dilation) in enumerate(config.stages, start=1):
            stage, channels = _stage(
                config,
                channels,
                width,
                depth,
                stride=stride,
                dilation=dilation,
                entry_dilation=entry_dilation,
                enters=index == 1,
            )
            self.add_module(f"layer{index}", stage)
            entry_dilation = dilation
        # A pre-activated network's last addition has no activation yet (1603.05027, appendix).
        self.bn_last = nn.BatchNorm2d(channels) if config.activation == "full" else nn.Identity()
        self.relu_last = nn.ReLU(inplace=True) if config.activation in {"full", "relu-only"} else nn.Identity()
        self.avgpool = blocks.GlobalAvgPool()
        self.fc = nn.Linear(channels, config.num_classes)
        blocks.initialize(self)

    @property
    def embedding_dim(self) -> int:
        """Length of the pooled features."""
        return int(self.fc.in_features)

    @property
    def num_classes(self) -> int:
        return int(self.fc.out_features)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        dtype: torch.dtype = self.fc.weight.dtype
        return dtype

    def forward_features(self, x: Tensor) -> tuple[Tensor, ...]:
        """The map after each stage: on ImageNet networks C2 to C5, at 1/4 to 1/32 of the input's size."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        maps = []
        for index in range(1, len(self.config.layers) + 1):
            x = getattr(self, f"layer{index}")(x)
            maps.append(x)
        maps[-1] = self.relu_last(self.bn_last(x))
        return tuple(maps)

    def forward_embedding(self, x: Tensor) -> Tensor:
        """Global average of the last map, (N, embedding_dim)."""
        return self.avgpool(self.forward_features(x)[-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.forward_embedding(x))


def _stage(
    config: ResNetConfig,
    in_channels: int,
    width: int,
    depth: int,
    *,
    stride: int,
    dilation: int,
    entry_dilation: int,
    enters: bool,
) -> tuple[nn.Sequential, int]:
    """`depth` blocks, the first of which changes the shape; returns them and the number of channels that leave."""
    out_channels = width * config.expansion
    original = blocks.BasicBlock if config.block == "basic" else blocks.Bottleneck
    layers: list[nn.Module] = []
    for index in range(depth):
        first = index == 0
        channels = in_channels if first else out_channels
        shape = {
            "stride": stride if first else 1,
            "dilation": dilation,
            "entry_dilation": entry_dilation if first else dilation,
        }
        if config.activation == "original":
            layers.append(original(config, channels, width, **shape))
        else:
            layers.append(RearrangedBlock(config, channels, width, enters=enters and first, **shape))
    return nn.Sequential(*layers), out_channels
