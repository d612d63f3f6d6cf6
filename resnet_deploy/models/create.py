"""From a name and weights to a network in evaluation mode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from resnet_deploy.errors import CheckpointError, UsageError
from resnet_deploy.models import registry
from resnet_deploy.models.checkpoint import Checkpoint, read_checkpoint, read_members
from resnet_deploy.models.config import MAX_CLASSES
from resnet_deploy.models.ensemble import Ensemble
from resnet_deploy.models.in_memory import as_file
from resnet_deploy.models.matching import check_weights
from resnet_deploy.models.registry import Architecture
from resnet_deploy.models.resnet import ResNet
from resnet_deploy.specs import Preprocessing

RANDOM_SEED = 0


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """A network with what it needs in order to be deployed.

    Attributes:
        architecture: its row of the table.
        network: in evaluation mode.
        preprocessing: the checkpoint's, else the architecture's.
        weights: how it got its values, as the manifest has it.
        class_names: by index, where the checkpoint has them.
        known: whether the checkpoint says its preprocessing.
    """

    architecture: Architecture
    network: ResNet | Ensemble
    preprocessing: Preprocessing
    weights: dict[str, Any]
    class_names: tuple[str, ...] | None
    known: bool = False


def create_model(
    name: str,
    *,
    weights: str | Path | Mapping[str, Tensor] | None = None,
    num_classes: int | None = None,
    new_head: bool = False,
    **shape: Any,
) -> nn.Module:
    """A network by name, in evaluation mode: (N, 3, H, W) float32 → (N, num_classes) logits.

    Args:
        name: of an architecture, as `list_models` has it.
        weights: a .pth, .pt or .safetensors file, a state dict, IMAGENET1K_V1, IMAGENET1K_V2 or DEFAULT; random (seed 0)
            without.
        num_classes: by default the checkpoint's, else the architecture's.
        new_head: a fresh classifier for num_classes.
        **shape: fields of `ResNetConfig` in place of the name's:
            create_model("resnet", layers=(3, 4, 6, 3), block="bottleneck").

    Returns:
        An ordinary nn.Module, whose state dict has torchvision's keys.

    Raises:
        UsageError: an unknown name.
        CheckpointError: weights that do not fit.
    """
    row = registry.architecture(name, **shape)
    with as_file(weights) as file:
        return load_model(row.name, weights=file, num_classes=num_classes, new_head=new_head).network


def load_model(
    name: str, *, weights: str | Path | None = None, num_classes: int | None = None, new_head: bool = False
) -> LoadedModel:
    """As `create_model`, with the checkpoint's preprocessing, class names and provenance beside the network.

    Args:
        name: of an architecture.
        weights: a file, or a published name; random without.
        num_classes: by default the checkpoint's, else the architecture's.
        new_head: a fresh classifier for num_classes.

    Returns:
        The network and what is known of it.

    Raises:
        UsageError: an unknown name.
        CheckpointError: weights that do not fit.
    """
    row = registry.architecture(name)
    if num_classes is not None and not 1 <= num_classes <= MAX_CLASSES:
        raise UsageError(f"a classifier has 1 to {MAX_CLASSES} classes; found {num_classes}")
    if not row.members:
        checkpoint = None if weights is None else read_checkpoint(row, weights)
        loaded = _loaded(row, checkpoint, num_classes, new_head, seed=RANDOM_SEED)
    else:
        checkpoints = [None] * len(row.members) if weights is None else read_members(row, weights)
        members = [
            _loaded(member, checkpoint, num_classes, new_head, seed=RANDOM_SEED + index)
            for index, (member, checkpoint) in enumerate(zip(row.members, checkpoints, strict=True))
        ]
        loaded = _joined(row, members)
    loaded.network.architecture = row.name
    return loaded


def _loaded(
    row: Architecture, checkpoint: Checkpoint | None, num_classes: int | None, new_head: bool, *, seed: int
) -> LoadedModel:
    """One network with a checkpoint's weights, or random ones."""
    if checkpoint is None:
        network = _settled(_build(row, num_classes or row.num_classes, seed))
        return LoadedModel(
            architecture=row, network=network, preprocessing=row.preprocessing, class_names=None,
            weights={"source": "random", "seed": seed, "sha256": None},
        )  # fmt: skip
    network = _load(row, checkpoint, num_classes, new_head)
    preprocessing = checkpoint.metadata.preprocessing or row.preprocessing
    if checkpoint.resize is not None:
        preprocessing = replace(preprocessing, resize=checkpoint.resize)
    return LoadedModel(
        architecture=row, network=network, preprocessing=preprocessing,
        class_names=None if new_head else checkpoint.metadata.class_names,
        weights={
            "source": checkpoint.source, "sha256": checkpoint.sha256, "key": checkpoint.key, "new_head": new_head,
            **_reported(checkpoint, new_head)
        },
        known=checkpoint.metadata.preprocessing is not None or checkpoint.resize is not None,
    )  # fmt: skip


def _reported(checkpoint: Checkpoint, new_head: bool) -> dict[str, Any]:
    """What the weights are said to reach; with a new classifier, nothing."""
    if new_head or checkpoint.top1_accuracy is None:
        return {}
    return {"top1_accuracy": checkpoint.top1_accuracy, "reported_by": checkpoint.reported_by}


def _joined(row: Architecture, members: list[LoadedModel]) -> LoadedModel:
    """An ensemble of loaded members, which must have been trained on the same classes and see the same image."""
    first = members[0]
    for member in members:
        own, other = member.preprocessing, first.preprocessing
        # The size before the crop is a choice of the evaluation: V1 and V2 weights differ in it alone.
        if replace(own, resize=other.resize) != other:
            raise CheckpointError(
                f"the members of {row.name} see different images: {member.architecture.name} takes {own.crop} pixels with "
                f"mean {own.mean} and std {own.std}, {first.architecture.name} {other.crop}, {other.mean}, {other.std}"
            )
        names = {m.class_names or first.class_names for m in (member, first)}
        if member.network.num_classes != first.network.num_classes or len(names) > 1:
            raise CheckpointError(
                f"the members of {row.name} have different classes: {member.architecture.name} "
                f"{member.network.num_classes}, {first.architecture.name} {first.network.num_classes}"
            )
    sources = {str(member.weights["source"]): None for member in members}
    digests = [member.weights["sha256"] for member in members]
    return LoadedModel(
        architecture=row, network=Ensemble([m.network for m in members]).eval(), preprocessing=first.preprocessing,
        class_names=first.class_names,
        weights={
            "source": ",".join(sources), "sha256": "+".join(digests) if all(digests) else None,
            "members": [member.weights for member in members],
        },
        known=all(member.known for member in members),
    )  # fmt: skip


def _build(row: Architecture, num_classes: int, seed: int = RANDOM_SEED) -> ResNet:
    """Randomly initialized from a fixed seed, the caller's generator untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = ResNet(row.with_classes(num_classes))
    network.eval()
    return network


def _settled(network: ResNet) -> ResNet:
    """Random weights whose batch norms know how large their inputs are.

    Without that each residual block doubles the variance, and a thousand layers pass the range of FP32. One variance for a
    whole layer: channels that happen to be small would be blown up, and rounding errors with them.
    """

    def settle(norm: nn.BatchNorm2d, inputs: tuple[Tensor, ...]) -> None:
        norm.running_var.fill_(inputs[0].square().mean())

    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(settle) for norm in norms]
    size = 32 if network.config.stem == "cifar" else 64
    with torch.no_grad():
        network(torch.randn(4, 3, size, size, generator=torch.Generator().manual_seed(RANDOM_SEED)))
    for hook in hooks:
        hook.remove()
    return network


def _load(row: Architecture, checkpoint: Checkpoint, num_classes: int | None, new_head: bool) -> ResNet:
    if new_head and num_classes is None:
        raise UsageError("a new head needs its number of classes: --num-classes N")
    if not new_head and num_classes is not None and checkpoint.num_classes not in (None, num_classes):
        raise CheckpointError(
            f"{checkpoint.source} classifies {checkpoint.num_classes} classes, not {num_classes}. Leave --num-classes out, or "
            "pass --new-head for a fresh, untrained classifier (transfer learning)"
        )
    classes = num_classes or checkpoint.num_classes or row.num_classes
    state = check_weights(row, checkpoint, classes, new_head=new_head)
    network = _build(row, classes) if new_head else _empty(row, classes)
    network.load_state_dict(state, strict=not new_head)
    return network


def _empty(row: Architecture, num_classes: int) -> ResNet:
    """Uninitialized: every value is about to be loaded, and initialization is most of the building time."""
    with torch.device("meta"):
        network = ResNet(row.with_classes(num_classes))
    network.to_empty(device="cpu").eval()
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):  # old checkpoints lack the counter
            layer.num_batches_tracked.zero_()
    return network
