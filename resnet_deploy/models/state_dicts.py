"""From what a checkpoint file holds to a network's state dict: where scripts nest it, and what wrappers put before names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from resnet_deploy._text import printable
from resnet_deploy.errors import CheckpointError
from resnet_deploy.models.archives import Contents
from resnet_deploy.models.stored import StoredTensor

# Where training scripts keep the weights; an average of them (EMA) is what those scripts evaluate, so it goes first.
_NESTED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "state_dict", "model_state_dict", "model", "net")
# What wrappers put before each name: DistributedDataParallel and EMA, torch.compile, Lightning.
_PREFIXES = ("module.", "_orig_mod.", "model.")
_MAX_NESTING = 8
_MAX_NAME = 512


def state_of(contents: Contents, path: Path) -> tuple[dict[str, Tensor], str | None]:
    """Load the weights of a file: by their plain names, and where in the file they were nested.

    No tensor is larger than the file: a stride of 0 lets a few bytes claim any shape.

    Raises:
        CheckpointError: there is no state dict, or one of its tensors cannot be read.
    """
    described, key = _unwrap(contents.tree, path)
    described = _strip(described)
    size = path.stat().st_size
    data: dict[str, bytearray] = {}
    state = {}
    for name, tensor in described.items():
        _check_tensor(name, tensor, size, path)
        assert tensor.storage is not None
        try:
            if tensor.storage.key not in data:
                data[tensor.storage.key] = contents.read(tensor.storage)
            state[name] = tensor.view(data[tensor.storage.key])
        except (ValueError, OSError, MemoryError) as exc:
            reason = readable(str(exc)) or "there is not enough memory"
            raise CheckpointError(
                f"{path} cannot be read as a checkpoint: {readable(name)}: {reason}. Copy or download it again"
            ) from exc
    return state, key


def _check_tensor(name: str, tensor: StoredTensor, size: int, path: Path) -> None:
    if tensor.kind != "dense" or tensor.storage is None:
        raise CheckpointError(
            f"{path}: {readable(name)} is a tensor ({readable(tensor.kind)}); expected a dense one of floating-point weights. "
            "Save the state dict of the network in FP32, before it is converted"
        )
    if tensor.size_bytes > size:
        raise CheckpointError(
            f"{path}: {readable(name)} is {list(tensor.shape)}, {tensor.size_bytes} bytes in a file of {size}: its elements "
            "are not in the file. Save contiguous weights"
        )


def _unwrap(content: Any, path: Path) -> tuple[dict[str, StoredTensor], str | None]:
    keys: list[str] = []
    while True:
        if not isinstance(content, dict):
            kind = "Tensor" if isinstance(content, StoredTensor) else type(content).__name__
            raise CheckpointError(f"{path} holds a {kind}, not a state dict")
        key = next((key for key in _NESTED if _has_tensors(content.get(key))), None)
        if key is None:
            break
        if len(keys) == _MAX_NESTING:
            raise CheckpointError(f"{path} nests its weights more than {_MAX_NESTING} deep ({'.'.join(keys)}), or holds itself")
        keys.append(key)
        content = content[key]
    state = {name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, StoredTensor)}
    if not state:
        names = ", ".join(readable(str(name)) for name in list(content)[:8] if isinstance(name, (str, int)))
        raise CheckpointError(f"{path} has no tensors; its keys are {names or 'none'}")
    if long := next((name for name in state if len(name) > _MAX_NAME), None):
        raise CheckpointError(
            f"{path} has a tensor whose name has {len(long)} characters; expected a module's, as in conv1.weight"
        )
    return state, ".".join(keys) or None


def _has_tensors(content: Any) -> bool:
    """Whether there is a tensor at any depth: `ema` may hold the settings of the average alone."""
    seen: set[int] = set()
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, StoredTensor):
            return True
        if isinstance(value, dict) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values())
    return False


def _strip(state: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Plain names: no wrapper's prefix, no averaging counter, and the classifier called fc."""
    state = {name: tensor for name, tensor in state.items() if name != "n_averaged"}
    while prefix := next((p for p in _PREFIXES if state and all(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    if "linear.weight" in state and not any(name.startswith("fc.") for name in state):
        state = {name.replace("linear.", "fc.") if name.startswith("linear.") else name: t for name, t in state.items()}
    return state


def readable(text: str) -> str:
    """Text from a file as a message may show it: one line without control characters."""
    return printable(text[:100]) + ("…" if len(text) > 100 else "")
