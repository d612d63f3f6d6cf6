"""Networks and state dicts of the calling program, as the name and the file that everything else takes."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from resnet_deploy.errors import CheckpointError, UsageError

SOURCE = "a state dict in memory"  # what messages and the manifest call it


def is_network(value: Any) -> bool:
    """Whether a value is an nn.Module; imports no torch."""
    return hasattr(value, "state_dict") and not isinstance(value, Mapping)


def name_of(network: Any) -> str:
    """The architecture of a network that `create_model` made.

    Raises:
        UsageError: `create_model` did not make it.
    """
    name = getattr(network, "architecture", None)
    if isinstance(name, str):
        return name
    raise UsageError(
        f"this {type(network).__name__} is none of the architectures' networks; give the name of its architecture, and "
        "weights=network.state_dict()"
    )


@contextlib.contextmanager
def as_file(weights: Any) -> Iterator[Any]:
    """Weights as a file for as long as the block lasts; those that are a path, a published name or None as they are.

    Args:
        weights: a state dict, or anything else that `create_model` takes.

    Raises:
        CheckpointError: values of the mapping are no tensors.
    """
    if not isinstance(weights, Mapping):
        yield weights
        return
    from torch import Tensor

    from resnet_deploy.models.checkpoint import save

    if wrong := [str(name) for name, value in weights.items() if not isinstance(value, Tensor)]:
        raise CheckpointError(f"{wrong[0]} of the state dict is no tensor; give network.state_dict()")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state_dict.safetensors"
        # Tensors that share memory, or are views, are no file's: each is written whole.
        save({str(name): value.detach().clone() for name, value in weights.items()}, path, {})
        yield path
