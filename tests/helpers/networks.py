"""Networks that several tests use."""

from __future__ import annotations

import torch
from torch import nn

from resnet_deploy.models.create import load_model
from resnet_deploy.models.deploy import DeployModel
from resnet_deploy.specs import Head, InputFormat, Preprocessing
from tests.helpers.paths import DIGITS

SMALL = "resnet_cifar:8"
# Architectures with options, each of which changes what a network computes or costs.
OPTIONS = [
    "resnet34:shortcut=A", "resnet34:shortcut=C", "resnet50:shortcut=D", "resnet50d:stem=imagenet", "resnet50:stride_on=1x1",
    "resnet50:squeeze=16", "resnet18:squeeze=16", "resnet50:output_stride=8", "preact_resnet50:squeeze=8",
    "preact_resnet18:shortcut=C", "resnet:layers=1-2-1,block=bottleneck,groups=4,width_per_group=24",
    *(f"resnet20:activation={kind}" for kind in ("bn-after-add", "relu-before-add", "relu-only")),
    *(f"resnet50:activation={kind}" for kind in ("bn-after-add", "relu-before-add", "relu-only")),
]  # fmt: skip


def deploy(name: str = "resnet20", head: str = "logits", input_format: str = "float", size: int = 32) -> DeployModel:
    """A model as it is exported; ResNet-20 with its trained weights. `+l2` after a head normalizes."""
    loaded = load_model(name, weights=DIGITS if name == "resnet20" else None)
    preprocessing = Preprocessing(resize=size, crop=size, mean=loaded.preprocessing.mean, std=loaded.preprocessing.std)
    parsed = Head.parse(head.removesuffix("+l2"), l2_normalize=head.endswith("+l2"))
    return DeployModel(loaded.network, head=parsed, input_format=InputFormat(input_format), preprocessing=preprocessing)


def randomize(network: nn.Module) -> None:
    """Weights that keep activations near one, and batch norms that are far from the identity."""
    generator = torch.Generator().manual_seed(2)
    for layer in network.modules():
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            layer.weight.data.normal_(std=layer.weight[0].numel() ** -0.5, generator=generator)
        elif isinstance(layer, nn.BatchNorm2d):
            layer.weight.data.uniform_(0.5, 1.5, generator=generator)
            layer.running_mean.normal_(std=0.1, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)
            layer.num_batches_tracked.fill_(3)
        if isinstance(getattr(layer, "bias", None), torch.Tensor):
            layer.bias.data.normal_(std=0.1, generator=generator)
