"""Residual networks as a stem, stages of blocks, and a classifier."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from resnet_deploy.models import blocks

_BLOCKS: dict[str, type[blocks.BasicBlock] | type[blocks.Bottleneck]] = {
    "basic": blocks.BasicBlock,
    "bottleneck": blocks.Bottleneck,
}
_STEMS = {"imagenet": blocks.imagenet_stem, "cifar": blocks.cifar_stem}


@dataclass(frozen=True, kw_only=True)
class ResNetConfig:
    """The shape of a residual network.

    block: basic or bottleneck. layers: blocks in each stage. widths: channels of each stage, before expansion.
    stem: imagenet or cifar. shortcut: A (zero-padded identity) or B (projection), where the shape changes.
    groups, width_per_group: the 3x3's cardinality and width at 64 channels (1611.05431; 1605.07146 with one group).
    """

    block: str
    layers: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512)
    stem: str = "imagenet"
    shortcut: str = "B"
    groups: int = 1
    width_per_group: int = 64
    num_classes: int = 1000


class ResNet(nn.Module):
    """A residual network: (N, 3, H, W) float → (N, num_classes) logits. Its state dict has torchvision's keys."""

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__()
        self.config = config
        for name, module in _STEMS[config.stem](config.widths[0]).items():
            self.add_module(name, module)
        channels = config.widths[0]
        for index, (width, depth) in enumerate(zip(config.widths, config.layers, strict=True), start=1):
            stage, channels = _stage(config, channels, width, depth, stride=1 if index == 1 else 2)
            self.add_module(f"layer{index}", stage)
        self.avgpool = blocks.GlobalAvgPool()
        self.fc = nn.Linear(channels, config.num_classes)
        blocks.initialize(self)

    @property
    def embedding_dim(self) -> int:
        """Length of the pooled features."""
        return int(self.fc.in_features)

    def forward_features(self, x: Tensor) -> tuple[Tensor, ...]:
        """The map after each stage: on ImageNet networks C2 to C5, at 1/4 to 1/32 of the input's size."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        maps = []
        for index in range(1, len(self.config.layers) + 1):
            x = getattr(self, f"layer{index}")(x)
            maps.append(x)
        return tuple(maps)

    def forward_embedding(self, x: Tensor) -> Tensor:
        """Global average of the last map, (N, embedding_dim)."""
        return self.avgpool(self.forward_features(x)[-1])

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.forward_embedding(x))


def _stage(config: ResNetConfig, in_channels: int, width: int, depth: int, *, stride: int) -> tuple[nn.Sequential, int]:
    """`depth` blocks, the first of which changes the shape; returns them and the number of channels that leave."""
    block = _BLOCKS[config.block]
    out_channels = width * block.expansion
    shortcut = blocks.PaddedIdentity if config.shortcut == "A" else blocks.projection
    changes = stride != 1 or in_channels != out_channels
    layers = []
    for index in range(depth):
        first = index == 0
        layers.append(
            block(
                in_channels if first else out_channels,
                width,
                stride=stride if first else 1,
                groups=config.groups,
                width_per_group=config.width_per_group,
                downsample=shortcut(in_channels, out_channels, stride=stride) if first and changes else None,
            )
        )
    return nn.Sequential(*layers), out_channels
