"""Whether weights are an architecture's: names and shapes first, which cost nothing, then types and values."""

from __future__ import annotations

import torch
from torch import Tensor

from resnet_deploy.errors import CheckpointError
from resnet_deploy.models import registry
from resnet_deploy.models.checkpoint import Checkpoint
from resnet_deploy.models.config import MAX_CLASSES
from resnet_deploy.models.registry import Architecture
from resnet_deploy.models.resnet import ResNet
from resnet_deploy.models.state_dicts import readable

_COUNTER = "num_batches_tracked"  # of a batch norm; plays no part in inference
_FLOATS = {torch.float16, torch.bfloat16, torch.float32, torch.float64}
_COUNTS = {torch.int64, torch.int32, torch.int16, torch.uint8, torch.float32, torch.float64}
_LARGEST = torch.finfo(torch.float32).max

Shapes = dict[str, tuple[int, ...]]


def check_weights(row: Architecture, checkpoint: Checkpoint, num_classes: int, *, new_head: bool) -> dict[str, Tensor]:
    """Check that a checkpoint's weights can be loaded into a network, before one is made or a value is copied.

    Args:
        row: the architecture.
        checkpoint: what was read.
        num_classes: of the network.
        new_head: whether its classifier is left out.

    Returns:
        The state dict to load: floating-point tensors of the network's names and shapes, every value finite in float32.

    Raises:
        CheckpointError: for names, shapes, types or values that are not this network's; the tensor is named.
    """
    if not 1 <= num_classes <= MAX_CLASSES:
        raise CheckpointError(f"{checkpoint.source}: {num_classes} classes; expected 1 to {MAX_CLASSES}")
    expected = shapes(row, num_classes)
    state = checkpoint.state
    if new_head:
        expected = {name: shape for name, shape in expected.items() if not name.startswith("fc.")}
        state = {name: tensor for name, tensor in state.items() if name not in {"fc.weight", "fc.bias"}}
    _check_shapes(row, checkpoint, {name: tuple(tensor.shape) for name, tensor in state.items()}, expected)
    for name, tensor in state.items():
        _check_type(name, tensor, checkpoint.source)
        _check_values(name, tensor, checkpoint.source)
    return state


def shapes(row: Architecture, num_classes: int) -> Shapes:
    """Names and shapes of a network's state dict, made on the meta device, where building costs nothing."""
    with torch.device("meta"):
        state = ResNet(row.with_classes(num_classes)).state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _check_shapes(row: Architecture, checkpoint: Checkpoint, state: Shapes, expected: Shapes) -> None:
    # Checkpoints older than PyTorch 0.4.1 have no counters.
    missing = [name for name in expected if name not in state and not name.endswith(_COUNTER)]
    unexpected = [name for name in state if name not in expected]
    differing = [name for name in expected if name in state and state[name] != expected[name]]
    if not (missing or unexpected or differing):
        return
    message = [f"{checkpoint.source} is not a checkpoint of {row.name}:"]
    for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", differing)):
        if names:
            message.append(f"{len(names)} {what} ({', '.join(map(readable, names[:3]))}{', …' if len(names) > 3 else ''}).")
    if differing:
        name = differing[0]
        message.append(f"{name} is {list(state[name])}, expected {list(expected[name])}.")
    if missing and all(name.startswith("fc.") for name in missing) and not unexpected:
        message.append("It has no classifier: pass --new-head with --num-classes.")
    elif match := _recognize(checkpoint):
        message.append(f"It fits {match}: use that name.")
    raise CheckpointError(" ".join(message))


def _recognize(checkpoint: Checkpoint) -> str | None:
    """The architecture whose names and shapes are exactly these, if there is one."""
    own = _without_counters({name: tuple(tensor.shape) for name, tensor in checkpoint.state.items()})
    blocks: dict[str, int] = {}
    for stage, block, *_ in (name.split(".") for name in own if name.startswith("layer") and name.count(".") > 1):
        blocks[stage] = max(blocks.get(stage, 0), int(block) + 1 if block.isdecimal() else 0)
    layers = tuple(blocks[stage] for stage in sorted(blocks))
    classes = checkpoint.num_classes
    if classes is not None and not 1 <= classes <= MAX_CLASSES:
        return None
    for row in registry.ARCHITECTURES.values():
        # Building a thousand layers takes seconds, even on the meta device.
        if row.config.layers == layers and own == _without_counters(shapes(row, classes or row.num_classes)):
            return row.name
    return None


def _without_counters(state: Shapes) -> Shapes:
    return {name: shape for name, shape in state.items() if not name.endswith(_COUNTER)}


def _check_type(name: str, tensor: Tensor, source: str) -> None:
    """A cast from integers would be silent, and wrong: their scale stands elsewhere."""
    if tensor.dtype not in (_COUNTS if name.endswith(_COUNTER) else _FLOATS):
        kind = str(tensor.dtype).removeprefix("torch.")
        raise CheckpointError(
            f"{source}: {name} is {kind}; expected float32, float64, float16 or bfloat16. Save the state dict of the network "
            "in FP32: resnet-deploy makes other precisions itself"
        )


def _check_values(name: str, tensor: Tensor, source: str) -> None:
    if not tensor.is_floating_point():
        return
    low, high = (float(value) for value in torch.aminmax(tensor))  # NaN where there is one, and no copy is made
    if low == low and max(-low, high) > _LARGEST and torch.isfinite(tensor).all():
        raise CheckpointError(f"{source}: {name} has {low if -low > high else high:.3g}, which is infinite in float32")
    if not (low >= -_LARGEST and high <= _LARGEST):
        raise CheckpointError(f"{source}: {name} has NaN or Inf; the training diverged or the file is damaged")
    if name.endswith("running_var") and low < 0:
        raise CheckpointError(f"{source}: {name} has {low:.3g}, and a variance is not negative; the file is damaged")
