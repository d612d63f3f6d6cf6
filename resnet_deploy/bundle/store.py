"""A bundle that is opened: what it holds, its files once their bytes were checked, and the way to change it."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from resnet_deploy._files import write_atomic, writing
from resnet_deploy.bundle import codec
from resnet_deploy.bundle.disk import damage, read_manifest
from resnet_deploy.bundle.locks import locked
from resnet_deploy.bundle.manifest import Artifact, Manifest, PlanFile
from resnet_deploy.bundle.names import MANIFEST, STAGING, WEIGHTS
from resnet_deploy.bundle.transaction import Transaction, changing, recover
from resnet_deploy.errors import BundleError, ConflictError, IntegrityError


class Bundle:
    """An opened bundle: what it held when it was opened, or after this handle's last change.

    Attributes:
        path: the folder.
        manifest: what it holds; change it by `transaction` alone.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._verified: dict[str, str] = {}

    @classmethod
    def open(cls, bundle: Bundle | str | Path) -> Bundle:
        """Open a bundle, or look again at one that is open, finishing what a killed run had left to rename.

        Raises:
            BundleError: there is none, or it is of another version.
            IntegrityError: its manifest was changed by hand.
        """
        path = bundle.path if isinstance(bundle, Bundle) else Path(bundle)
        if not path.is_dir():
            raise BundleError(f"there is no bundle at {path}; make one with `resnet-deploy export ARCH -o {path}`")
        if os.path.lexists(path / STAGING):
            with contextlib.suppress(BundleError), locked(path):
                recover(path)
        manifest = read_manifest(path)
        if manifest is None:
            raise BundleError(f"{path} has no {MANIFEST}; make a bundle with `resnet-deploy export ARCH -o {path}`")
        if not isinstance(bundle, Bundle):
            return cls(path, manifest)
        bundle.manifest, bundle._verified = manifest, {}
        return bundle

    def entry(self, name: str) -> Artifact:
        """What the manifest says of a file. Raises BundleError where the bundle has no such file."""
        entry = self.manifest.artifacts.get(name)
        if entry is None:
            raise BundleError(f"{self.path} has no {name}; it has {', '.join(self.manifest.artifacts) or 'nothing'}")
        return entry

    def sha256(self, name: str) -> str:
        """The digest of a file: of the very bytes that this handle checked, whatever became of the file since."""
        return self._verified.get(name) or self.entry(name).sha256

    def artifact(self, name: str) -> Path:
        """The path of a file whose bytes are those that the manifest recorded.

        Raises:
            BundleError: the bundle has no such file, or another process replaced it meanwhile.
            IntegrityError: it is gone or was changed; the message has the command that makes it again.
        """
        entry, path = self.entry(name), self.path / name
        if name not in self._verified:
            problem = damage(path, entry)
            if problem is not None:
                self._explain(name, problem)
            self._verified[name] = entry.sha256
        return path

    def _explain(self, name: str, problem: str) -> None:
        current = read_manifest(self.path)
        if current is not None and current.artifacts.get(name) != self.manifest.artifacts.get(name):
            raise ConflictError(f"{self.path / name} was replaced by another process meanwhile; run the command again")
        raise IntegrityError(f"{problem}. {self._remade_by(name)}")

    def _remade_by(self, name: str) -> str:
        """How a file is made again."""
        entry = self.entry(name)
        if isinstance(entry, PlanFile):
            return f"Remove it, and build it again with `{self._recorded(entry, f'resnet-deploy build {self.path}')}`"
        if name == WEIGHTS:
            return f"Make the bundle again with `{self._recorded(entry, 'resnet-deploy export ARCH')} --overwrite`"
        return f"Remove it, and make it again with `resnet-deploy export {self.path}`, or `{self._recorded(entry, 'export')}`"

    def _recorded(self, entry: Artifact, otherwise: str) -> str:
        return entry.command if entry.command.startswith("resnet-deploy ") else otherwise

    def extract(self, folder: Path, names: Iterable[str]) -> None:
        """Write artifacts to a new folder, as a bundle of those alone: what another program needs to run them.

        Args:
            folder: that does not exist yet.
            names: of the artifacts.

        Raises:
            BundleError, IntegrityError, StorageError: as `artifact` and `transaction` do.
        """
        kept = {name: self.artifact(name) for name in names}
        with writing(folder):
            folder.mkdir(parents=True)
            for name, path in kept.items():
                shutil.copyfile(path, folder / name)
        artifacts = {name: self.manifest.artifacts[name] for name in kept}
        write_atomic(folder / MANIFEST, codec.encode_manifest(msgspec.structs.replace(self.manifest, artifacts=artifacts)))

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Change artifacts and manifest together: all of it happens when the block ends, or none.

        The block holds no lock, so it may take as long as it needs; what it changes is applied to the manifest that is on disk
        when it ends.

        Raises:
            ConflictError: what it was made from was replaced meanwhile, or another model's bundle is there now.
            BundleError: another process holds the lock for too long, or the folder is not writable.
            StorageError: the disk is full.
        """
        with changing(self.path, self.manifest) as change:
            yield change
        assert change.result is not None
        self.manifest = change.result
        for name in change.files:
            self._verified.pop(name, None)

    def record(self, section: str, records: Mapping[str, Any]) -> None:
        """Add records to a section of the manifest.

        Args:
            section: `parity`, `measurements`, `scenarios` or `roofs`.
            records: by key.

        Raises:
            BundleError, StorageError: as `transaction` does.
        """
        with self.transaction() as change:
            change.record(section, records)
