"""Models in a Triton repository: versions are added whole, and never overwritten.

A model's folder has config.pbtxt, what it refers to (labels.txt), and a numbered folder for each version. What is new is
written beside the repository and renamed into it: a server that polls sees a model, or a version of it, or nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from resnet_deploy._files import flush, sha256_file, write_hashed, writing
from resnet_deploy.errors import IntegrityError, RepositoryError
from resnet_deploy.serving.triton.model_config import config_dict, differences, read_config, to_text

CONFIG = "config.pbtxt"
IDENTITY = "resnet_deploy"  # the parameter that says whose model a configuration is


@dataclass(frozen=True, kw_only=True)
class File:
    """A file to write.

    Attributes:
        content: its bytes, where it is not copied.
        path, sha256: of a verified file that is copied.
    """

    content: bytes = b""
    path: Path | None = None
    sha256: str | None = None

    @property
    def digest(self) -> str:
        """The SHA-256 of what is written."""
        return self.sha256 or hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True, kw_only=True)
class RepositoryModel:
    """A model that is to be added.

    Attributes:
        config: an inference.ModelConfig.
        version: a version's files by name, which may have folders.
        beside: files that belong to the configuration.
    """

    config: Any
    version: Mapping[str, File]
    beside: Mapping[str, File] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return str(self.config.name)


@dataclass(frozen=True, kw_only=True)
class Added:
    """A model as it is in a repository now.

    Attributes:
        name: that clients call.
        version: its newest.
        reused: whether that version was there already.
        path: its folder.
        size_bytes: of the version's files.
        config: as config.pbtxt has it.
    """

    name: str
    version: int
    reused: bool
    path: Path
    size_bytes: int
    config: dict[str, Any]


def add(repository: Path, models: list[RepositoryModel]) -> list[Added]:
    """Add a version of each model; of one whose newest version is the same, nothing.

    Args:
        repository: the folder.
        models: in the order in which they are added.

    Returns:
        The models, as they are there now.

    Raises:
        RepositoryError: another model's folder, another configuration, or another process works there; nothing is written.
        StorageError: the disk is full; what was there stays.
    """
    _check_place(repository)
    for model in models:
        _check(repository / model.name, model)
    with writing(repository):
        repository.mkdir(parents=True, exist_ok=True)
    with _locked(repository):
        versions = [_check(repository / model.name, model) for model in models]
        with _staging(repository) as staging:
            for model, (version, same) in zip(models, versions, strict=True):
                if not same:
                    _stage(staging / model.name, model, version)
            for model, (version, same) in zip(models, versions, strict=True):
                if not same:
                    _publish(staging / model.name, repository / model.name, version)
    return [_added(repository / m.name, m, version, same) for m, (version, same) in zip(models, versions, strict=True)]


def _check_place(repository: Path) -> None:
    if repository.exists() and not repository.is_dir():
        raise RepositoryError(f"{repository} is a file; a model repository is a folder")
    if (repository / "manifest.json").exists() or (repository / CONFIG).exists():
        what = "a bundle" if (repository / "manifest.json").exists() else "one model of a repository"
        raise RepositoryError(f"{repository} is {what}; choose a folder that holds models, or a new one")


def _check(folder: Path, model: RepositoryModel) -> tuple[int, bool]:
    """The version to add, or the newest one where it has the same files. Raises RepositoryError."""
    if not folder.exists():
        return 1, False
    if not (folder / CONFIG).is_file():
        raise RepositoryError(f"{folder} is there, and has no {CONFIG}: it is not a model of ours. Choose another --name")
    config = read_config(folder / CONFIG)
    theirs, ours = _identity(config), _identity(model.config)
    if theirs != ours:
        raise RepositoryError(
            f"{folder} holds another model: {theirs}; this one is {ours}. Choose another --name or another repository"
        )
    wrong = differences(config, model.config)
    wrong += [f"{name}: other content" for name, file in model.beside.items() if _digest(folder / name) != file.digest]
    if wrong:
        raise RepositoryError(
            f"{folder / CONFIG} is configured otherwise, and all versions of a model share it: {'; '.join(wrong)}. Give the "
            "options that it was made with, or choose another --name"
        )
    newest = max((int(path.name) for path in folder.iterdir() if path.is_dir() and path.name.isdecimal()), default=0)
    same = newest > 0 and _digests(folder / str(newest)) == {name: file.digest for name, file in model.version.items()}
    return (newest, True) if same else (newest + 1, False)


def _identity(config: Any) -> str:
    known = IDENTITY in config.parameters
    return str(config.parameters[IDENTITY].string_value) if known else "a model that was not made by resnet-deploy"


def _digests(folder: Path) -> dict[str, str | None]:
    """Of every file in a version's folder but the byte code that a server may have left."""
    names = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return {str(name): _digest(folder / name) for name in names if "__pycache__" not in name.parent.parts}


def _digest(path: Path) -> str | None:
    return sha256_file(path) if path.is_file() else None


@contextlib.contextmanager
def _locked(repository: Path) -> Iterator[None]:
    lock = FileLock(repository / ".lock")  # a file: Triton takes folders alone for models
    try:
        with writing(repository):
            lock.acquire(timeout=0)
    except Timeout:
        raise RepositoryError(f"another process is working on {repository}; wait for it to end") from None
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _staging(repository: Path) -> Iterator[Path]:
    """A folder beside the repository, from which a rename is atomic; in it where the repository is a mount of its own, or the
    only folder that may be written. The lock is held."""
    whole = repository.resolve()
    parent = whole.parent
    beside = parent.stat().st_dev == whole.stat().st_dev and os.access(parent, os.W_OK)
    staging = parent / f".{whole.name}.staging" if beside else whole / ".staging"
    shutil.rmtree(staging, ignore_errors=True)  # of a run that was killed
    try:
        with writing(staging):
            staging.mkdir()
            yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _stage(folder: Path, model: RepositoryModel, version: int) -> None:
    _write(folder / CONFIG, File(content=to_text(model.config).encode()))
    for name, file in model.beside.items():
        _write(folder / name, file)
    for name, file in model.version.items():
        _write(folder / str(version) / name, file)


def _write(path: Path, file: File) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = write_hashed(path, file.content if file.path is None else file.path.read_bytes())
    if digest != file.digest:
        raise IntegrityError(f"{file.path} was changed while it was copied; run the command again")
    flush(path)


def _publish(staged: Path, folder: Path, version: int) -> None:
    """One rename: the whole model where it is new, else the version."""
    if folder.exists():
        (staged / str(version)).rename(folder / str(version))
    else:
        staged.rename(folder)


def _added(folder: Path, model: RepositoryModel, version: int, reused: bool) -> Added:
    path = folder / str(version)
    size_bytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return Added(
        name=model.name, version=version, reused=reused, path=path, size_bytes=size_bytes, config=config_dict(model.config)
    )
