"""Scales, weights and biases of an INT8 graph trained until its answers are those of the FP32 graph, on calibration images
and without labels: the FP32 graph is the teacher, as in AdaQuant (2006.10518) and QDrop (2203.05740), but over the whole
network at once, because what one layer rounds another can make up for.

Rounding passes gradients straight through, and a scale learns from what it rounds and clips (LSQ, 1902.08153; under Adam
its gradient needs no factor of its own). Each channel has a factor too: what writes the channel is multiplied by it, what
reads it divided, so that the function stays and narrow channels use more of the tensor's 255 levels (1906.04721 does so
for weights). Factors of a residual stream are common to all that write and read it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from resnet_deploy.errors import CalibrationError
from resnet_deploy.graph.graph import Graph
from resnet_deploy.precision.auto import distance, run_graph
from resnet_deploy.precision.calibrate import symmetric_scale
from resnet_deploy.precision.network import LEVELS, Parameters, QuantizedNetwork, Tensors

FEWEST = 16
BATCH = 32
STEPS = (300, 400)
# Of Adam, by stage: scales and factors of channels in logarithms, weights in steps of their grids, biases in shares of their
# mean magnitude. Weights come second: factors that still move would undo their rounding.
RATES: tuple[dict[str, float], ...] = (
    {"scales": 4e-3, "channels": 8e-3},
    {"scales": 1e-3, "channels": 2e-3, "weights": 5e-3, "biases": 5e-4},
)
_HELD_OUT = 4  # every so many images judge
_VIEWS = 4  # of each of them: the luck of one rounding is as large as what is to be judged
_FARTHEST = 12  # images are moved by a share of their size, so that no rounding is learnt by heart
_DIVERGENCE, _OUTLIERS = 0.3, 0.3  # shares of the loss


def reconstruct(
    graph: Graph,
    quantized: Graph,
    images: NDArray[Any],
    *,
    steps: tuple[int, ...] = STEPS,
    seed: int = 0,
    step: Callable[[int, int], None] = lambda done, total: None,
) -> Graph:
    """Train an INT8 graph for TensorRT until it errs less against its FP32 graph. Same nodes and pairs, other constants.

    Args:
        graph: the FP32 graph.
        quantized: the INT8 graph made from it.
        images: (N, ...) as the graph takes them, without labels.
        steps: of training, in each stage.
        seed: of the order and the views of images.
        step: told steps done and steps in all.

    Returns:
        A copy, or the INT8 graph itself: what errs least on every fourth image, which nothing is trained on, and views of it.

    Raises:
        CalibrationError: too few images.
        GraphError: operators that cannot be trained through.
    """
    if len(images) < FEWEST:
        raise CalibrationError(f"a reconstruction needs at least {FEWEST} images; found {len(images)}")
    network = QuantizedNetwork(graph, quantized)
    apart = np.arange(len(images)) % _HELD_OUT == _HELD_OUT - 1
    held, seen = images[apart], torch.from_numpy(np.ascontiguousarray(images[~apart]))
    values, candidates, finished = _balanced(network, seen), [quantized], 0
    for stage, count in enumerate(steps):
        trainer = Trainer(network, seen, values, RATES[stage], count, torch.Generator().manual_seed(seed + stage))
        for _ in range(count):
            trainer.step()
            finished += 1
            step(finished, sum(steps))
        candidates.append(network.written(values))
    random = torch.Generator().manual_seed(seed)
    held = np.concatenate([held, *(_moved(torch.from_numpy(held), random).numpy() for _ in range(_VIEWS))])
    expected = run_graph(graph, held)
    return min(candidates, key=lambda candidate: distance(expected, run_graph(candidate, held)))


def _moved(images: torch.Tensor, random: torch.Generator) -> torch.Tensor:
    """Each by up to a twelfth of its size, its edges repeated."""
    first = 1 if images.shape[-1] == 3 and images.dtype == torch.uint8 else 2  # NHWC or NCHW
    for axis in (first, first + 1):
        size = images.shape[axis]
        farthest = max(1, size // _FARTHEST)
        by = torch.randint(-farthest, farthest + 1, (len(images), 1), generator=random)
        at = (torch.arange(size) + by).clamp(0, size - 1)
        shape = [len(images), *[size if index == axis else 1 for index in range(1, images.ndim)]]
        images = torch.take_along_dim(images, at.reshape(shape), dim=axis)
    return images


def _balanced(network: QuantizedNetwork, images: torch.Tensor) -> Parameters:
    """Where the training starts: factors that take half of the spread out of the ranges of a tensor's channels (all of it
    would make weights that are hard to round), and scales that clip nothing."""
    largest: Tensors = {}
    with torch.no_grad():
        for part in images.split(BATCH):
            seen: Tensors = {}
            network(part, network.start, rounds=False, seen=seen)
            for name, tensor in seen.items():
                channels = tensor.float().abs().transpose(0, 1).flatten(1).amax(1)
                largest[name] = torch.maximum(largest.get(name, channels), channels)
    parameters = network.start.copy()
    total, count = torch.zeros_like(parameters.channels), torch.zeros_like(parameters.channels)
    for name, channels in largest.items():
        share = (channels / channels.max().clamp(min=1e-30)).clamp(1 / 16, 1)
        group = network.channels[name].expand(len(share))
        total.index_add_(0, group, share.log())
        count.index_add_(0, group, torch.ones(len(share)))
    parameters.channels = -0.5 * total / count.clamp(min=1)
    parameters.channels[0] = 0
    for name, channels in largest.items():
        if name in network.fixed:
            continue
        after = float((channels * torch.exp(parameters.channels[network.channels[name]])).max())
        parameters.scales[name] = torch.tensor(math.log(symmetric_scale(after, LEVELS)))
    return parameters


class Trainer:
    """One stage of training; changes the parameters in place."""

    def __init__(
        self,
        network: QuantizedNetwork,
        images: torch.Tensor,
        values: Parameters,
        rates: dict[str, float],
        steps: int,
        random: Any,
    ) -> None:
        self.network, self.images, self.values, self.random = network, images, values, random
        self.order = torch.empty(0, dtype=torch.long)
        self.divergence = [network.graph.made_by[name].op_type in {"Gemm", "ReduceLogSumExp"} for name in network.graph.outputs]
        groups = []
        for kind, name, tensor in values.kinds():
            trains = kind in rates and not (kind == "scales" and name in network.fixed)
            tensor.requires_grad_(trains)
            if trains:
                groups.append({"params": [tensor], "lr": rates[kind] * self._unit(kind, tensor)})
        self.optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda at: 0.5 + 0.5 * math.cos(math.pi * at / steps))
        with torch.no_grad():
            parts = [self._losses(part) for part in images.split(BATCH)]
        self.first = torch.stack(parts).mean(0).clamp(min=1e-30)

    @staticmethod
    def _unit(kind: str, tensor: torch.Tensor) -> float:
        if kind == "weights":
            return float(tensor.detach().flatten(1).abs().amax(1).mean()) / LEVELS
        return float(tensor.detach().abs().mean()) if kind == "biases" else 1.0

    def step(self) -> None:
        size = min(BATCH, len(self.images))
        if len(self.order) < size:
            self.order = torch.randperm(len(self.images), generator=self.random)
        chosen, self.order = self.order[:size], self.order[size:]
        losses = self._losses(_moved(self.images[chosen], self.random)) / self.first
        loss = losses @ torch.tensor([1 - _DIVERGENCE, _DIVERGENCE, _OUTLIERS])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.schedule.step()

    def _losses(self, images: torch.Tensor) -> torch.Tensor:
        """Against FP32, over all outputs: relative squared error, divergence of the softmaxes, and the fourth power of the
        error, which the worst images decide."""
        with torch.no_grad():
            expected = self.network(images, self.network.start, rounds=False)
        outputs, total = self.network(images, self.values), torch.zeros(3)
        for a, b, classes in zip(expected, outputs, self.divergence, strict=True):
            a, b = a.flatten(1), b.flatten(1)
            relative = ((a - b) ** 2).sum(1) / (a**2).sum(1).clamp(min=1e-30)
            divergence = (a.softmax(1) * (a.log_softmax(1) - b.log_softmax(1))).sum(1) if classes else relative
            total = total + torch.stack([relative.mean(), divergence.mean(), ((a - b) ** 4).mean().sqrt()])
        return total
