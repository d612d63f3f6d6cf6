"""The degradation experiment (1512.03385, figures 4 and 6): a deeper plain network trains worse, a deeper residual one does not.

    python benchmarks/degradation.py [--json benchmarks/results/degradation.json --plot benchmarks/results/degradation.svg]
    python benchmarks/degradation.py --data cifar10/train --size 32 --iterations 64000 --batch 128

Plain and residual networks of 20 and 56 layers, one recipe, one order of images. An error is that of the training batches,
as they were met. --data: `digits:train`, a folder with a folder for each class, or an .npz. A CUDA device is used if there is one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from common import Limit, Row, compare, finish, parser
from torch import nn

from resnet_deploy.data import open_data
from resnet_deploy.models.create import create_model
from resnet_deploy.specs import InputFormat, Preprocessing

FAMILIES = ("plain", "resnet")
DEPTHS = (20, 56)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def load(options: argparse.Namespace) -> tuple[torch.Tensor, torch.Tensor]:
    """All images, normalized by their own mean and deviation, and their labels."""
    plain = Preprocessing(resize=options.size, crop=options.size, mean=(0.0,) * 3, std=(1.0,) * 3)
    dataset = open_data(options.data, preprocessing=plain, input_format=InputFormat.FLOAT)
    batches = list(dataset.batches(256))
    images = torch.from_numpy(np.concatenate([batch.images for batch in batches]))
    labels = np.concatenate([batch.labels for batch in batches if batch.labels is not None])
    if len(labels) != len(images):
        raise SystemExit(f"{options.data} has no labels: use a folder for each class")
    return ((images - images.mean()) / images.std()).to(DEVICE), torch.from_numpy(labels).to(DEVICE)


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Shifts of up to an eighth of the size, as the paper's 4 of 32 pixels; digits are not flipped."""
    size, reach = images.shape[-1], images.shape[-1] // 8
    padded = nn.functional.pad(images, (reach,) * 4)
    top, left = torch.randint(0, 2 * reach + 1, (2,), generator=generator).tolist()
    return padded[:, :, top : top + size, left : left + size]


def learning_rate(step: int, steps: int) -> float:
    """The paper's: 0.1, a tenth of it after 1/2 and again after 3/4 of the steps; 0.01 in the first hundredth (110 layers)."""
    return 0.01 if step < steps // 100 else 0.1 * 0.1 ** ((step >= steps // 2) + (step >= steps * 3 // 4))


def train(name: str, images: torch.Tensor, labels: torch.Tensor, seed: int, options: argparse.Namespace) -> list[float]:
    """Error of each step's batch, in order."""
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    network = create_model(name, num_classes=int(labels.max()) + 1)
    for layer in network.modules():  # create_model's random weights are always the same
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, (nn.BatchNorm2d, nn.Linear)):
            layer.reset_parameters()
    network = network.train().to(DEVICE, memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    errors: list[torch.Tensor] = []
    order = iter(())
    for step in range(options.iterations):
        optimizer.param_groups[0]["lr"] = learning_rate(step, options.iterations)
        if (chosen := next(order, None)) is None:
            order = iter(torch.randperm(len(images), generator=generator).split(options.batch)[: len(images) // options.batch])
            chosen = next(order)
        logits = network(augment(images[chosen], generator).contiguous(memory_format=torch.channels_last))
        errors.append((logits.argmax(1) != labels[chosen]).float().mean())
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, labels[chosen]).backward()
        optimizer.step()
    return torch.stack(errors).tolist()
