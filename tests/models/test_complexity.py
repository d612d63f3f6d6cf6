"""What a shape is said to cost is what the modules, built and run on the meta device, have and do."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from resnet_deploy.models import registry
from resnet_deploy.models.complexity import Complexity, complexity
from resnet_deploy.models.resnet import ResNet
from tests.helpers.networks import OPTIONS


def counted(row: registry.Architecture, sizes: set[int]) -> dict[int, Complexity]:
    """Each element of an output is the product of one filter, or one row, with what it sees."""
    macs = activations = 0

    def count(layer: Any, _: Any, output: Any) -> None:
        nonlocal macs, activations
        macs += output.numel() * layer.weight[0].numel()
        activations += output.numel() if isinstance(layer, nn.Conv2d) else 0

    costs = {}
    with torch.device("meta"), torch.no_grad():
        network = ResNet(row.config).eval()
        parameters = sum(tensor.numel() for tensor in network.parameters())
        for layer in network.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                layer.register_forward_hook(count)
        for size in sizes:
            macs = activations = 0
            network(torch.empty(1, 3, size, size))
            costs[size] = Complexity(parameters=parameters, macs=macs, activations=activations)
    return costs


@pytest.mark.parametrize("name", [*registry.ARCHITECTURES, *OPTIONS])
def test_the_count_is_that_of_the_modules(name: str) -> None:
    row = registry.architecture(name)
    for size, cost in counted(row, {row.image_size, 97}).items():
        assert complexity(row, image_size=size) == cost


# 2003.13678, table 8 (activations, in millions).
@pytest.mark.parametrize(
    ("name", "millions"), [("resnet50", 11.1), ("resnet101", 16.2), ("resnet152", 22.6), ("resnext50_32x4d", 14.4)]
)
def test_activations_are_the_published_ones(name: str, millions: float) -> None:
    assert complexity(registry.architecture(name)).activations / 1e6 == pytest.approx(millions, abs=0.05)


def test_an_ensemble_costs_what_its_members_do() -> None:
    both = complexity(registry.architecture("ensemble:resnet18+resnet50"), image_size=64)
    assert both == complexity(registry.architecture("resnet18"), image_size=64) + complexity(
        registry.architecture("resnet50"), image_size=64
    )
