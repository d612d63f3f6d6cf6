"""The degradation experiment (1512.03385, figures 4, 6): deeper plain networks train worse, deeper residual ones do not.

    python benchmarks/degradation.py [--json benchmarks/results/degradation.json --plot benchmarks/results/degradation.svg]
    python benchmarks/degradation.py --data cifar10/train --size 32 --iterations 64000 --batch 128 --peak 0.1

Plain and residual networks of 20 and 56 layers under one recipe; a round is another seed. Errors are those of the training
batches as they were met, so they are the paper's thin lines. --data: `digits:train`, a folder with a folder for each class,
or an .npz. A CUDA device is used if there is one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from common import Limit, Row, alone, finish, parser
from torch import nn

from resnet_deploy.data.sources import open_data
from resnet_deploy.models.blocks import initialize
from resnet_deploy.models.create import create_model
from resnet_deploy.specs import InputFormat, Preprocessing

FAMILIES = ("plain", "resnet")
DEPTHS = (20, 56)
POINTS = 40  # of a curve
WORSE = Limit(bound="at least", value=0.05)
NOT_WORSE = Limit(bound="at most", value=0.01)
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


def learning_rate(step: int, options: argparse.Namespace) -> float:
    """The paper's steps: a tenth of the peak after 1/2 and again after 3/4. The peak is reached over the first twentieth (the
    paper warmed up 110 layers so): from the start, 56 layers lose half of a short run to it."""
    warm = options.iterations // 20
    if step < warm:
        return options.peak * step / warm
    return options.peak * 0.1 ** ((step >= options.iterations // 2) + (step >= options.iterations * 3 // 4))


def network_of(name: str, classes: int) -> nn.Module:
    """Untrained, from torch's global seed (create_model's own random weights are always the same)."""
    network = create_model(name, num_classes=classes)
    for layer in network.modules():
        if isinstance(layer, (nn.BatchNorm2d, nn.Linear)):
            layer.reset_parameters()
    initialize(network)
    return network.train().to(DEVICE, memory_format=torch.channels_last)


def train(name: str, images: torch.Tensor, labels: torch.Tensor, seed: int, options: argparse.Namespace) -> list[float]:
    """Error of each step's batch, in order."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = network_of(name, int(labels.max()) + 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=options.peak, momentum=0.9, weight_decay=1e-4)
    errors: list[torch.Tensor] = []
    order: list[torch.Tensor] = []
    for step in range(options.iterations):
        if not order:
            order = list(torch.randperm(len(images), generator=generator).split(options.batch)[: len(images) // options.batch])
        chosen = order.pop()
        optimizer.param_groups[0]["lr"] = learning_rate(step, options)
        logits = network(augment(images[chosen], generator).contiguous(memory_format=torch.channels_last))
        errors.append((logits.detach().argmax(1) != labels[chosen]).float().mean())
        optimizer.zero_grad()
        nn.functional.cross_entropy(logits, labels[chosen]).backward()
        optimizer.step()
    return torch.stack(errors).tolist()


def smooth(errors: Sequence[float], points: int = POINTS) -> list[float]:
    """Means of as many equal stretches; the last is the error at the end."""
    return [float(part.mean()) for part in np.array_split(np.asarray(errors), points)]


def rows(curves: Mapping[str, list[list[float]]]) -> list[Row]:
    """Of each family the error of the last stretch, the deeper network as ours and the shallower as its peer."""
    found = []
    for family, limit in (("plain", WORSE), ("resnet", NOT_WORSE)):
        deep, shallow = ([curve[-1] for curve in curves[f"{family}{depth}"]] for depth in reversed(DEPTHS))
        ours, peer = statistics.median(deep), statistics.median(shallow)
        what = f"{family}: training error at the end, {DEPTHS[1]} layers against {DEPTHS[0]}"
        found.append(Row(what=what, unit="fraction", ours=ours, peer=peer))
        excess = statistics.median(a - b for a, b in zip(deep, shallow, strict=True))
        found.append(alone(f"{family}: what the deeper one adds", excess, unit="fraction", limit=limit))
    return found


def plot(curves: Mapping[str, list[list[float]]], options: argparse.Namespace) -> None:
    """The paper's figure 6: left plain, right residual; a line is a seed."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    matplotlib.rcParams.update({"svg.hashsalt": "degradation", "svg.fonttype": "none", "font.size": 9})
    figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True, layout="constrained")
    middle = [(index + 0.5) * options.iterations / POINTS for index in range(POINTS)]
    for axis, family, title in zip(axes, FAMILIES, ("plain", "residual"), strict=True):
        for depth, color in zip(DEPTHS, ("#d08700", "#0b63c4"), strict=True):
            for number, curve in enumerate(curves[f"{family}{depth}"]):
                label = f"{depth} layers" if number == 0 else None
                axis.plot(
                    middle, [100 * error for error in curve], color=color, linewidth=2 if depth > 20 else 1.2, label=label
                )
        axis.set(title=title, xlabel="iteration", ylim=(0, 95), xlim=(0, options.iterations))
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    axes[0].set_ylabel("training error, %")
    options.plot.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.plot, metadata={"Date": None})


def main() -> None:
    options_of = parser(__doc__, rounds=2)
    options_of.add_argument("--data", default="digits:train")
    options_of.add_argument("--size", type=int, default=16, help="of the images, pixels (default 16)")
    options_of.add_argument("--iterations", type=int, default=1000)
    options_of.add_argument("--batch", type=int, default=64)
    options_of.add_argument("--peak", type=float, default=0.05, help="the largest learning rate (default 0.05)")
    options_of.add_argument("--plot", type=Path, metavar="FILE.svg")
    options = options_of.parse_args()
    images, labels = load(options)
    curves: dict[str, list[list[float]]] = {f"{family}{depth}": [] for family in FAMILIES for depth in DEPTHS}
    start = time.perf_counter()
    for seed in range(options.rounds):
        for name, found in curves.items():
            found.append(smooth(train(name, images, labels, seed, options)))
            print(f"seed {seed}: {name:9s} {found[-1][-1]:7.2%} after {time.perf_counter() - start:4.0f} s", flush=True)
    settings = {key: getattr(options, key) for key in ("data", "size", "iterations", "batch", "peak")}
    samples = {f"{name}.{seed}": curve for name, found in curves.items() for seed, curve in enumerate(found)}
    finish("degradation", rows(curves), samples, options, seconds=round(time.perf_counter() - start), **settings)
    if options.plot is not None:
        plot(curves, options)


if __name__ == "__main__":
    main()
