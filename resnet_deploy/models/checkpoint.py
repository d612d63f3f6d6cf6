"""Weights from files and from torchvision's server: read without running code, and matched strictly."""

from __future__ import annotations

import argparse
import json
import pickle
from dataclasses import dataclass, field, replace
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor

from resnet_deploy._files import sha256_file, writing
from resnet_deploy.errors import CheckpointError, StorageError, UnavailableError
from resnet_deploy.models.registry import Architecture
from resnet_deploy.specs import Preprocessing

WEIGHTS_URL = "https://download.pytorch.org/models/"

# Where training scripts keep the weights; an average of them (EMA) is what those scripts evaluate, so it goes first.
_NESTED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema", "state_dict", "model_state_dict", "model", "net")
# What wrappers put before each name: DistributedDataParallel and EMA, torch.compile, Lightning.
_PREFIXES = ("module.", "_orig_mod.", "model.")
METADATA_KEY = "resnet_deploy"
MEMBERS = "members."  # what an ensemble puts before its members' names


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A state dict and where it comes from.

    key: where in the file it was nested. metadata: what `save` recorded (architecture, preprocessing, class_names).
    resize: the evaluation size of published weights.
    """

    state: dict[str, Tensor] = field(repr=False)
    source: str
    sha256: str
    key: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    resize: int | None = None

    @property
    def num_classes(self) -> int | None:
        """Rows of the classifier; None where the checkpoint has none."""
        weight = self.state.get("fc.weight")
        return None if weight is None or weight.ndim == 0 else int(weight.shape[0])

    @property
    def preprocessing(self) -> Preprocessing | None:
        data = self.metadata.get("preprocessing")
        try:
            return None if data is None else Preprocessing.from_dict(data)
        except (KeyError, TypeError, ValueError) as exc:
            raise CheckpointError(f"{self.source} records a preprocessing that cannot be used: {data}") from exc


def is_published(weights: str) -> bool:
    """Whether a --weights value is a published name rather than a file."""
    return weights == "DEFAULT" or weights.startswith("IMAGENET1K_")


def weights_digest(row: Architecture, weights: str) -> str:
    """What identifies weights without loading them: a file's SHA-256, or the published file's name."""
    if row.members and (parts := _parts(row, weights)):
        return "+".join(weights_digest(member, part) for member, part in zip(row.members, parts, strict=True))
    return row.published(weights)[1].file if is_published(weights) else sha256_file(_existing(weights))


def read_members(row: Architecture, weights: str | Path) -> list[Checkpoint]:
    """An ensemble's weights, one checkpoint a member: from files or published names joined by commas, from one published
    name for all, or from one file of an ensemble. Raises CheckpointError."""
    if parts := _parts(row, str(weights)):
        return [read(member, part) for member, part in zip(row.members, parts, strict=True)]
    whole = _read_file(_existing(weights), str(weights))
    found = []
    for index, member in enumerate(row.members):
        prefix = f"{MEMBERS}{index}."
        state = {name.removeprefix(prefix): tensor for name, tensor in whole.state.items() if name.startswith(prefix)}
        if not state:
            raise CheckpointError(
                f"{weights} has no weights for {member.name}, member {index + 1} of {len(row.members)}; "
                "give one file a member, joined by commas"
            )
        found.append(replace(whole, state=state))
    return found


def _parts(row: Architecture, weights: str) -> list[str] | None:
    """Weights of each member; None for a file of the whole ensemble."""
    parts = [weights] * len(row.members) if is_published(weights) else weights.split(",")
    if len(parts) == 1:
        return None
    if len(parts) != len(row.members):
        raise CheckpointError(f"{row.name} has {len(row.members)} members, but --weights names {len(parts)}")
    return parts


def read(row: Architecture, weights: str | Path) -> Checkpoint:
    """Read a .pth, .pt or .safetensors file, or fetch published weights. Raises CheckpointError."""
    if not is_published(str(weights)):
        return _read_file(_existing(weights), str(weights))
    name, published = row.published(str(weights))
    found = _read_file(_fetch(published.file), name)
    return Checkpoint(state=found.state, source=name, sha256=found.sha256, resize=published.resize)


def save(state: dict[str, Tensor], path: Path, metadata: dict[str, Any]) -> None:
    """Write a .safetensors file that `read` gives back, metadata included. Raises StorageError on a full disk."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {name: tensor.detach().contiguous() for name, tensor in state.items()}
    with writing(path):
        path.touch()
        mode = path.stat().st_mode  # save_file makes files that nobody else can read
        try:
            save_file(tensors, path, metadata={METADATA_KEY: json.dumps(metadata)})
        except SafetensorError as exc:  # its only cause here is input and output
            raise StorageError(f"cannot write {path}: {exc}. Free some space and run the command again") from exc
        path.chmod(mode)


def _existing(weights: str | Path) -> Path:
    path = Path(weights).expanduser()
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise CheckpointError(
            f"{weights} {found}; give a .pth, .pt or .safetensors file, or IMAGENET1K_V1, IMAGENET1K_V2 or DEFAULT"
        )
    return path


def _fetch(file: str) -> Path:
    """The published file, from torch.hub's cache or the server. The hash is checked on arrival and again by name."""
    cache = Path(torch.hub.get_dir()) / "checkpoints" / file
    expected = file.rsplit("-", 1)[1].split(".")[0]
    if cache.is_file():
        if sha256_file(cache).startswith(expected):
            return cache
        raise CheckpointError(f"{cache} is damaged (its SHA-256 is not {expected}…); delete it and run again")
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(WEIGHTS_URL + file, str(cache), hash_prefix=expected, progress=False)
    except (URLError, HTTPException, OSError) as exc:
        raise UnavailableError(
            f"cannot fetch {WEIGHTS_URL + file}: {exc}. Download it elsewhere and pass it with --weights"
        ) from exc
    except RuntimeError as exc:
        raise CheckpointError(f"{WEIGHTS_URL + file} arrived damaged: {exc}. Run the command again") from exc
    return cache


def _read_file(path: Path, source: str) -> Checkpoint:
    metadata: dict[str, Any] = {}
    if path.suffix == ".safetensors":
        content, metadata = _load_safetensors(path)
    else:
        content = _load_pickle(path)
    state, key = _unwrap(content, path)
    state = _strip(state)
    _check_finite(state, path)
    return Checkpoint(state=state, source=source, sha256=sha256_file(path), key=key, metadata=metadata)


def _load_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(json.loads((file.metadata() or {}).get(METADATA_KEY, "{}")))
            return {name: file.get_tensor(name) for name in file.keys()}, metadata  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, TypeError, ValueError) as exc:
        raise CheckpointError(f"{path} is not a whole .safetensors file ({exc}); copy or download it again") from exc


def _load_pickle(path: Path) -> Any:
    try:
        # Training scripts save their argparse.Namespace beside the weights; it is plain data.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        reason = next((line for line in str(exc).splitlines() if "GLOBAL" in line or "global" in line), "not a checkpoint")
        raise CheckpointError(
            f"{path} was refused: it is damaged, or it holds more than tensors and loading it would run code "
            f"({reason.strip()[:160]}). Where you trust it, re-save it with torch.save(model.state_dict(), ...)"
        ) from exc
    except Exception as exc:  # torch raises a dozen kinds for damaged files, some without a message
        reason = (str(exc) or type(exc).__name__).splitlines()[0]
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint: it is truncated or not one ({reason[:160]}). Copy or download it again"
        ) from exc


def _unwrap(content: Any, path: Path) -> tuple[dict[str, Tensor], str | None]:
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds a {type(content).__name__}, not a state dict")
    for key in _NESTED:
        if _has_tensors(content.get(key)):
            state, inner = _unwrap(content[key], path)
            return state, key if inner is None else f"{key}.{inner}"
    state = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not state:
        raise CheckpointError(f"{path} has no tensors; its keys are {', '.join(map(str, list(content)[:8])) or 'none'}")
    return state, None


def _has_tensors(content: Any) -> bool:
    """Whether there is a tensor at any depth: `ema` may hold the settings of the average alone."""
    return isinstance(content, dict) and any(isinstance(v, Tensor) or _has_tensors(v) for v in content.values())


def _strip(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Plain names: no wrapper's prefix, no averaging counter, and the classifier called fc."""
    state = {name: tensor for name, tensor in state.items() if name != "n_averaged"}
    while prefix := next((p for p in _PREFIXES if state and all(name.startswith(p) for name in state)), None):
        state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    if "fc.weight" not in state and "linear.weight" in state:
        state = {name.replace("linear.", "fc.") if name.startswith("linear.") else name: t for name, t in state.items()}
    return state


def _check_finite(state: dict[str, Tensor], path: Path) -> None:
    for name, tensor in state.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise CheckpointError(f"{path}: {name} has NaN or Inf; the training diverged or the file is damaged")
