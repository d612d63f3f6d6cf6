"""A change of a bundle, all of it or none.

It is drafted in a folder of its own, without a lock, however long that takes. Then, under the bundle's lock, the manifest
that is on disk now is read, the change is applied to it, the draft becomes `.staging` in one rename, and files are moved into
place, the manifest last. A run that is killed before that rename changed nothing; one that is killed later is finished by
whoever opens the bundle next. What was made from a file that was replaced meanwhile is refused.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from resnet_deploy import _deps
from resnet_deploy._files import drafted, flush, full_disk, sha256_file, write_atomic, write_hashed, writing
from resnet_deploy.bundle import codec
from resnet_deploy.bundle.codec import now
from resnet_deploy.bundle.disk import damage, read_manifest
from resnet_deploy.bundle.locks import locked, running_command
from resnet_deploy.bundle.manifest import Artifact, GraphFile, Manifest, ModelDescription, PlanFile
from resnet_deploy.bundle.names import DRAFT, MANIFEST, STAGING
from resnet_deploy.errors import BundleError, ConflictError

if TYPE_CHECKING:
    from typing_extensions import Buffer

A = TypeVar("A", bound=Artifact)


@contextlib.contextmanager
def changing(path: Path, seen: Manifest | None) -> Iterator[Transaction]:
    """Change the bundle in a folder, as `Bundle.transaction` does.

    Args:
        path: the folder; it is made where it is missing.
        seen: the bundle that the change starts from; None where there was none.

    Yields:
        The change. It is applied, whole, when the block ends, and dropped when the block raises.
    """
    with _draft(path) as folder, full_disk(path):
        change = Transaction(folder, seen)
        yield change
        with locked(path):
            recover(path)
            change.result = change.commit(path)
            recover(path)


class Transaction:
    """What will be true of a bundle once its `with` block ends: operations on whatever the manifest is by then.

    Args:
        draft: the folder in which files are staged.
        seen: the manifest that the change starts from; None for a new bundle.
    """

    def __init__(self, draft: Path, seen: Manifest | None) -> None:
        self.files: set[str] = set()
        self.result: Manifest | None = None
        self._draft, self._seen = draft, seen
        self._digests: dict[str, str] = {}
        self._added: dict[str, Artifact] = {}
        self._records: dict[str, dict[str, Any]] = {}
        self._updates: list[Callable[[Manifest], Manifest]] = []
        self._merges: dict[str, tuple[type[Artifact], Callable[[dict[str, Any]], dict[str, Any]]]] = {}
        self._model: ModelDescription | None = None
        self._overwrite = False

    def stage(self, name: str) -> Path:
        """Where to write a file that is to be called `name`."""
        self.files.add(name)
        return self._draft / name

    def write(self, name: str, data: Buffer) -> None:
        """Stage a file from memory.

        Args:
            name: of the file in the bundle.
            data: its bytes.
        """
        self._digests[name] = write_hashed(self.stage(name), data)

    def add(self, name: str, kind: type[A], **facts: Any) -> A:
        """Name a staged file in the manifest, with its digest and size.

        Args:
            name: of the file in the bundle.
            kind: of its entry.
            **facts: the other fields of that kind.

        Returns:
            The entry.
        """
        path = self._draft / name
        if kind is not PlanFile:  # one that a power failure spoils is known by its digest, and built again
            flush(path)
        entry = kind(
            **facts, sha256=self._digests.get(name) or sha256_file(path), size_bytes=path.stat().st_size, created=now(),
            command=running_command(), packages=_deps.versions(),
        )  # fmt: skip
        self._added[name] = entry
        return entry

    def merge(self, name: str, kind: type[Artifact], combine: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Change a JSON file that several runs add to.

        Args:
            name: of the file in the bundle.
            kind: of its entry.
            combine: given what the file holds when this change is applied, gives what it is to hold.
        """
        self.files.add(name)
        self._merges[name] = (kind, combine)

    def record(self, section: str, records: Mapping[str, Any]) -> None:
        """Add records to a section of the manifest.

        Args:
            section: `parity`, `measurements`, `scenarios` or `roofs`.
            records: by key.
        """
        self._records.setdefault(section, {}).update(records)

    def update(self, function: Callable[[Manifest], Manifest]) -> None:
        """Change the manifest that is on disk when this change is applied, before what is added."""
        self._updates.append(function)

    def describe(self, model: ModelDescription, *, overwrite: bool = False) -> None:
        """Say what the bundle is a model of: it is made new.

        Args:
            model: the description.
            overwrite: replace whatever bundle is there when the change is applied.
        """
        self._model, self._overwrite = model, overwrite

    def commit(self, path: Path) -> Manifest:
        """Apply the change to the manifest that is on disk, and make it what is to be moved into place. The lock is held."""
        current = None if self._overwrite else read_manifest(path)
        manifest = self._base(path, current)
        for function in self._updates:
            manifest = function(manifest)
        for name, (kind, combine) in self._merges.items():
            self._combine(path, manifest, name, kind, combine)
        manifest = msgspec.structs.replace(manifest, artifacts=manifest.artifacts | self._added)
        self._check(path, manifest)
        for section, records in self._records.items():
            manifest = codec.replaced(manifest, section, records)
        try:
            encoded = codec.encode_manifest(manifest)
        except ValueError as exc:
            raise BundleError(f"this cannot be recorded in {path}: {exc}") from exc
        write_atomic(self._draft / MANIFEST, encoded)
        with writing(path):
            self._draft.replace(path / STAGING)
        return manifest

    def _base(self, path: Path, current: Manifest | None) -> Manifest:
        """What the change is applied to."""
        if self._model is None:
            if current is None:
                raise ConflictError(f"the bundle at {path} was removed by another process meanwhile; nothing was written")
            return current
        if current is not None and not self._overwrite and (self._seen is None or current.model != self._seen.model):
            raise ConflictError(
                f"another process made a bundle of {current.model.architecture} at {path} meanwhile; nothing was written. "
                "Run the command again"
            )
        if current is not None and self._seen is not None and not self._overwrite:
            return msgspec.structs.replace(current, model=self._model)
        return Manifest(created=now(), model=self._model)

    def _check(self, path: Path, manifest: Manifest) -> None:
        """Refuse what was made from a file, or says something of one, that is not the bundle's any more."""
        digests = manifest.digests
        for name, entry in self._added.items():
            made_from = entry.made_from if isinstance(entry, (GraphFile, PlanFile)) else None
            if made_from is not None and made_from not in digests:
                raise ConflictError(_outdated(path, name))
        for records in self._records.values():
            for record in records.values():
                for field in ("made_from", "reference"):
                    digest = getattr(record, field, None)
                    if digest is not None and digest not in digests:
                        raise ConflictError(_outdated(path, f"what was found of {record.candidate}"))

    def _combine(
        self,
        path: Path,
        manifest: Manifest,
        name: str,
        kind: type[Artifact],
        combine: Callable[[dict[str, Any]], dict[str, Any]],
    ) -> None:
        entry, content = manifest.artifacts.get(name), {}
        if entry is not None and damage(path / name, entry) is None:
            content = json.loads((path / name).read_bytes())
        self.write(name, json.dumps(combine(content), allow_nan=False).encode())
        self.add(name, kind)


def _outdated(path: Path, what: str) -> str:
    return (
        f"{what} is not written to {path}: the file that it was made from was replaced by another process meanwhile. "
        "Run the command again"
    )


@contextlib.contextmanager
def _draft(path: Path) -> Iterator[Path]:
    """A folder beside the bundle's files, for a change that is being made."""
    fresh = not path.exists()
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
    try:
        with drafted(path, DRAFT) as folder:
            yield folder
    finally:
        if fresh:
            with contextlib.suppress(OSError):  # it is not empty: the change was made, or another process works there
                path.rmdir()


def recover(path: Path) -> None:
    """Finish a change whose manifest is whole: move what it names into place. Drop any other. The lock is held."""
    staging = path / STAGING
    if staging.is_symlink() or staging.is_file():
        kind = "link" if staging.is_symlink() else "file"
        raise BundleError(f"{staging} is a {kind}, which resnet-deploy never makes; remove it")
    if not staging.exists():
        return
    try:
        following = None if (staging / MANIFEST).is_symlink() else read_manifest(staging)
    except BundleError:
        following = None
    if following is not None:
        stale = _names(path) - set(following.artifacts)
        with writing(path):
            for name in following.artifacts:
                file = staging / name
                if file.is_file() and not file.is_symlink():
                    file.replace(path / name)
            (staging / MANIFEST).replace(path / MANIFEST)
            for name in stale:
                (path / name).unlink(missing_ok=True)
    _drop(staging)


def _drop(staging: Path) -> None:
    """The manifest goes first: without it, whatever else is left counts for nothing."""
    (staging / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(staging, ignore_errors=True)


def _names(path: Path) -> set[str]:
    try:
        manifest = read_manifest(path)
    except BundleError:
        return set()
    return set() if manifest is None else set(manifest.artifacts)
