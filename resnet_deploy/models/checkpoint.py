"""Weights from files and from torchvision's server: read without running code, and matched strictly.

Memory: reading takes at most the file's size, for the weights, and 768 MiB for what describes them, whatever the file claims.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor

from resnet_deploy import _json
from resnet_deploy._files import sha256_file, writing
from resnet_deploy.errors import CheckpointError, StorageError, UnavailableError
from resnet_deploy.models.accuracy import logged_accuracy, stored_accuracy
from resnet_deploy.models.archives import TorchScriptFile, open_contents
from resnet_deploy.models.metadata import Metadata, parse_metadata
from resnet_deploy.models.pickles import ForbiddenGlobal
from resnet_deploy.models.registry import Architecture
from resnet_deploy.models.state_dicts import readable, state_of

WEIGHTS_URL = "https://download.pytorch.org/models/"

METADATA_KEY = "resnet_deploy"
# The two lines that save a state dict.
_RESAVE = "`model = {}('FILE'{})`, then `torch.save(model.state_dict(), 'weights.pth')`"
MEMBERS = "members."  # what an ensemble puts before its members' names


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A state dict and where it comes from.

    Raises CheckpointError for class names of another number than the classifier's rows.

    Attributes:
        state: tensors by name, torchvision's.
        source: what the user called it.
        sha256: of the file.
        key: where in the file it was nested.
        metadata: what `save` recorded.
        resize: pixels to which the evaluation of published weights resizes the shorter edge.
        top1_accuracy: a fraction, as the publisher, the checkpoint or the training's own log says.
        reported_by: which of these.
    """

    state: dict[str, Tensor] = field(repr=False)
    source: str
    sha256: str
    key: str | None = None
    metadata: Metadata = field(default_factory=Metadata)
    resize: int | None = None
    top1_accuracy: float | None = None
    reported_by: str | None = None

    def __post_init__(self) -> None:
        names = self.metadata.class_names
        if names is not None and self.num_classes is not None and len(names) != self.num_classes:
            raise CheckpointError(
                f"{self.source} records {len(names)} class_names for a classifier of {self.num_classes} classes; "
                "save it again with one name a class, or with none"
            )

    @property
    def num_classes(self) -> int | None:
        """Rows of the classifier; None where the checkpoint has none."""
        weight = self.state.get("fc.weight")
        return None if weight is None or weight.ndim == 0 else int(weight.shape[0])


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
        return [read_checkpoint(member, part) for member, part in zip(row.members, parts, strict=True)]
    whole = _read_file(_existing(weights), str(weights))
    checkpoints = []
    for index, member in enumerate(row.members):
        prefix = f"{MEMBERS}{index}."
        state = {name.removeprefix(prefix): tensor for name, tensor in whole.state.items() if name.startswith(prefix)}
        if not state:
            raise CheckpointError(
                f"{weights} has no weights for {member.name}, member {index + 1} of {len(row.members)}; "
                "give one file a member, joined by commas"
            )
        checkpoints.append(replace(whole, state=state))
    return checkpoints


def _parts(row: Architecture, weights: str) -> list[str] | None:
    """Weights of each member; None for a file of the whole ensemble."""
    parts = [weights] * len(row.members) if is_published(weights) else weights.split(",")
    if len(parts) == 1:
        return None
    if len(parts) != len(row.members):
        raise CheckpointError(f"{row.name} has {len(row.members)} members, but --weights names {len(parts)}")
    return parts


def read_checkpoint(row: Architecture, weights: str | Path) -> Checkpoint:
    """Read a .pth, .pt or .safetensors file, or fetch published weights.

    Args:
        row: the architecture whose weights they are.
        weights: a file, or a published name.

    Returns:
        The state dict and where it is from.

    Raises:
        CheckpointError: a file that is damaged, or not this architecture's.
    """
    if not is_published(str(weights)):
        return _read_file(_existing(weights), str(weights))
    name, published = row.published(str(weights))
    checkpoint = _read_file(_fetch(published.file), name)
    return Checkpoint(
        state=checkpoint.state, source=name, sha256=checkpoint.sha256, resize=published.resize,
        top1_accuracy=published.top1_percent / 100, reported_by="torchvision",
    )  # fmt: skip


def save(state: dict[str, Tensor], path: Path, metadata: Any) -> None:
    """Write a .safetensors file that `read_checkpoint` gives back, metadata included.

    Args:
        state: tensors by name.
        path: the file.
        metadata: a `Metadata`, or a dict of its fields; others are kept beside them.

    Raises:
        CheckpointError: metadata that `read_checkpoint` would refuse.
        StorageError: a full disk.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        text = _json.encode(metadata, indent=None).decode()
        parse_metadata(text)
    except ValueError as exc:
        raise CheckpointError(f"{path} cannot record its metadata: {exc}") from exc
    tensors = {name: tensor.detach().contiguous() for name, tensor in state.items()}
    with writing(path):
        path.touch()
        mode = path.stat().st_mode  # save_file makes files that nobody else can read
        try:
            save_file(tensors, path, metadata={METADATA_KEY: text})
        except SafetensorError as exc:  # its only cause here is input and output
            raise StorageError(f"cannot write {path}: {exc}. Free some space and run the command again") from exc
        path.chmod(mode)


def _existing(weights: str | Path) -> Path:
    try:
        path = Path(weights).expanduser()
        kind = "is a folder" if path.is_dir() else "is not a regular file" if path.exists() else "does not exist"
        if path.is_file():
            return path
    except (OSError, RuntimeError, ValueError) as exc:  # a name that is too long, a home that nobody has
        kind = f"cannot be opened ({exc})"
    raise CheckpointError(
        f"{weights} {kind}; give a .pth, .pt or .safetensors file, or IMAGENET1K_V1, IMAGENET1K_V2 or DEFAULT"
    )


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
    try:
        with path.open("rb") as file:
            contents = open_contents(file, path)
            metadata = _metadata(contents.metadata, path)
            state, key = state_of(contents, path)
        stored, logged = stored_accuracy(contents.tree), logged_accuracy(path)
        return Checkpoint(
            state=state, source=source, sha256=sha256_file(path), key=key, metadata=metadata,
            top1_accuracy=logged if stored is None else stored,
            reported_by="the checkpoint" if stored is not None else "the training's log" if logged is not None else None,
        )  # fmt: skip
    except ForbiddenGlobal as exc:
        raise CheckpointError(
            f"{path} was refused: it names {readable(exc.name)}, so it holds a whole module or another object in place of a "
            f"state dict, and loading that would run code. Where you trust it, re-save it: "
            + _RESAVE.format("torch.load", ", weights_only=False")
        ) from exc
    except TorchScriptFile as exc:
        raise CheckpointError(
            f"{path} is a TorchScript archive, a program with its weights; expected a state dict. "
            f"Where you trust it, re-save it: {_RESAVE.format('torch.jit.load', '')}"
        ) from exc
    except (ValueError, OSError, MemoryError) as exc:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint: {readable(str(exc)) or 'there is not enough memory'}. "
            "Copy or download it again"
        ) from exc


def _metadata(texts: dict[str, str], path: Path) -> Metadata:
    text = texts.get(METADATA_KEY)
    try:
        return Metadata() if text is None else parse_metadata(text)
    except ValueError as exc:
        raise CheckpointError(
            f"{path} records metadata ({METADATA_KEY}) that cannot be used: {readable(str(exc))}. Save it again with that "
            "corrected or left out"
        ) from exc
