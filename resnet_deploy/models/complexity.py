"""What a network costs: parameters and multiply-accumulates, counted without computing anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from resnet_deploy.models.create import config_of
from resnet_deploy.models.registry import Architecture
from resnet_deploy.models.resnet import ResNet


@dataclass(frozen=True, kw_only=True)
class Complexity:
    """parameters: learned values. macs: multiply-accumulates of one image's convolutions and matrix products."""

    parameters: int
    macs: int


def complexity(row: Architecture, *, num_classes: int | None = None, image_size: int | None = None) -> Complexity:
    """Count an architecture on the meta device. image_size: pixels, square; by default the architecture's own."""
    size = image_size or row.image_size
    macs = 0

    def count(layer: Any, _: Any, output: Any) -> None:
        # Each element of the output is the product of one filter, or one row, with what it sees.
        nonlocal macs
        macs += output.numel() * layer.weight[0].numel()

    with torch.device("meta"), torch.no_grad():
        network = ResNet(config_of(row, num_classes or row.num_classes)).eval()
        for layer in network.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                layer.register_forward_hook(count)
        network(torch.empty(1, 3, size, size))
    return Complexity(parameters=sum(tensor.numel() for tensor in network.parameters()), macs=macs)
