"""The folder that holds a model's artifacts: manifest.json names, hashes and judges all of it.

Every change is staged in `.staging/`, then a complete next manifest is written there, then files are renamed into place,
the manifest last. A run that is killed before the next manifest was whole changed nothing; one that is killed later is
finished by whoever opens the bundle next.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import shlex
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from resnet_deploy import _deps
from resnet_deploy._files import flush, full_disk, sha256_file, write_atomic, write_hashed, writing
from resnet_deploy.errors import BundleError, IntegrityError

if TYPE_CHECKING:
    from typing_extensions import Buffer

MANIFEST = "manifest.json"
SCHEMA_VERSION = 1
_STAGING = ".staging"
_LOCK = ".lock"
_REMAKE = "Make it again with `resnet-deploy export ... --overwrite`"


class Bundle:
    """An opened bundle. `manifest` is the parsed manifest.json; change it inside `transaction` alone."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self.manifest = manifest
        self._verified: set[str] = set()

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Open a bundle, finishing what a killed run had left to rename.

        Raises BundleError where there is none, IntegrityError for a manifest that was changed by hand.
        """
        path = Path(path)
        if not path.is_dir():
            raise BundleError(f"there is no bundle at {path}; make one with `resnet-deploy export ARCH -o {path}`")
        if (path / _STAGING).exists():
            with contextlib.suppress(BundleError), _locked(path):
                _recover(path)
        if not (path / MANIFEST).is_file():
            raise BundleError(f"{path} has no {MANIFEST}; make a bundle with `resnet-deploy export ARCH -o {path}`")
        return cls(path, _read_manifest(path / MANIFEST))

    @classmethod
    def create(cls, path: str | Path, model: Mapping[str, Any], *, overwrite: bool = False) -> Bundle:
        """A bundle for a model's description; nothing is written before the first transaction ends.

        A folder that holds the same architecture's bundle is reused: its files stay until they are replaced. Raises
        BundleError for another architecture's bundle and for a folder of other things; overwrite replaces the bundle.
        """
        path = Path(path)
        fresh: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION, "created": now(), "model": dict(model), "artifacts": {},
            "parity": {}, "measurements": {},
        }  # fmt: skip
        if path.exists() and not path.is_dir():
            raise BundleError(f"{path} is a file; a bundle is a folder")
        if overwrite and _has_manifest(path):
            return cls(path, fresh)
        if _has_manifest(path):
            found = cls.open(path).manifest["model"]["architecture"]
            if found != model["architecture"]:
                raise BundleError(
                    f"{path} holds a bundle of {found}, not of {model['architecture']}. "
                    "Choose another folder, or replace it with --overwrite"
                )
        elif path.is_dir() and any(not entry.name.startswith(".") for entry in path.iterdir()):
            raise BundleError(f"{path} is not empty and holds no bundle; choose another folder")
        return cls(path, fresh)

    def artifact(self, name: str) -> Path:
        """The path of an artifact whose bytes are those that the manifest recorded. Raises IntegrityError."""
        entry = self.manifest["artifacts"].get(name)
        if entry is None:
            known = ", ".join(self.manifest["artifacts"]) or "nothing"
            raise BundleError(f"{self.path} has no {name}; it has {known}")
        path = self.path / name
        if name not in self._verified:
            remake = f"Build it again with `resnet-deploy build {self.path} ...`" if entry["kind"] == "plan" else _REMAKE
            if not path.is_file():
                raise IntegrityError(f"{path} is gone, but the manifest names it. {remake}")
            if (found := sha256_file(path)) != entry["sha256"]:
                raise IntegrityError(
                    f"{path} was changed after it was made: its SHA-256 is {found[:16]}…, the manifest has "
                    f"{entry['sha256'][:16]}…. {remake}"
                )
            self._verified.add(name)
        return path

    def extract(self, folder: Path, names: Iterable[str]) -> None:
        """Write artifacts to a new folder, as a bundle of those alone: what another program needs to run them.

        Raises as `artifact` and `transaction` do.
        """
        kept = {name: self.artifact(name) for name in names}
        with writing(folder):
            folder.mkdir(parents=True)
            for name, path in kept.items():
                shutil.copyfile(path, folder / name)
        artifacts = {name: self.manifest["artifacts"][name] for name in kept}
        write_atomic(folder / MANIFEST, _encode({**self.manifest, "artifacts": artifacts}))

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """Change artifacts and manifest together, under the bundle's lock; all of it happens, or none.

        Raises BundleError where another process holds the lock or the folder is not writable, StorageError on a full disk.
        """
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        with _locked(self.path):
            _recover(self.path)
            staging = self.path / _STAGING
            with writing(staging):
                staging.mkdir()
            change = Transaction(self.path, json.loads(json.dumps(self.manifest)))
            try:
                with full_disk(self.path):
                    yield change
                    change.commit()
            except BaseException:
                _drop(staging)
                raise
            _recover(self.path)
            self.manifest = change.manifest
            self._verified -= change.files

    def record(self, section: str, entries: Mapping[str, Any]) -> None:
        """Add results by key to `parity`, `measurements` or another section, which a manifest need not have yet."""
        with self.transaction() as change:
            change.manifest.setdefault(section, {}).update(entries)


class Transaction:
    """What will be true of a bundle once its `with` block ends."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.manifest = manifest
        self.files: set[str] = set()
        self._staging = path / _STAGING
        self._digests: dict[str, str] = {}

    def stage(self, name: str) -> Path:
        """Where to write an artifact that is to be called `name`."""
        self.files.add(name)
        return self._staging / name

    def write(self, name: str, data: Buffer) -> None:
        """Stage an artifact from memory."""
        self._digests[name] = write_hashed(self.stage(name), data)

    def add(self, name: str, **entry: Any) -> None:
        """Name a staged artifact in the manifest, with its hash and size. entry: what else is known of it."""
        path = self._staging / name
        if entry.get("kind") != "plan":  # one that a power failure spoils is known by its hash, and built again
            flush(path)
        self.manifest["artifacts"][name] = {
            **entry, "sha256": self._digests.get(name) or sha256_file(path), "size_bytes": path.stat().st_size,
            "created": now(), "command": command(), "packages": _deps.versions(),
        }  # fmt: skip

    def commit(self) -> None:
        write_atomic(self._staging / MANIFEST, _encode(self.manifest))


def now() -> str:
    """The time in UTC, to the second, as ISO 8601."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def command() -> str:
    """The command that is running, as a shell takes it."""
    program = Path(sys.argv[0]).name
    return shlex.join(["resnet-deploy" if program == "cli.py" else program, *sys.argv[1:]])


def key_of(**parts: Any) -> str:
    """A short key of what a result depends on: equal parts, equal key."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _has_manifest(path: Path) -> bool:
    return (path / MANIFEST).exists() or (path / _STAGING / MANIFEST).exists()


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """The bundle's lock; the kernel frees it when its holder dies."""
    lock = FileLock(path / _LOCK)
    try:
        with writing(path):
            lock.acquire(timeout=0)
    except Timeout:
        raise BundleError(f"another process is working on {path}; wait for it to end") from None
    try:
        yield
    finally:
        lock.release()


def _recover(path: Path) -> None:
    """Finish a transaction whose next manifest is whole, drop one whose isn't. The lock is held."""
    staging = path / _STAGING
    if (staging / MANIFEST).is_file():
        stale = _artifact_names(path / MANIFEST) - _artifact_names(staging / MANIFEST)
        for file in sorted(staging.iterdir()):
            if file.name != MANIFEST and not file.name.startswith("."):
                file.replace(path / file.name)
        (staging / MANIFEST).replace(path / MANIFEST)
        for name in stale:
            (path / Path(name).name).unlink(missing_ok=True)
    _drop(staging)


def _drop(staging: Path) -> None:
    """The manifest goes first: without it, whatever else is left counts for nothing."""
    (staging / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(staging, ignore_errors=True)


def _artifact_names(manifest: Path) -> set[str]:
    try:
        return set(json.loads(manifest.read_bytes())["artifacts"])
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _encode(manifest: dict[str, Any]) -> bytes:
    """Readable JSON that carries its own digest."""
    body = {name: value for name, value in manifest.items() if name != "digest"}
    manifest["digest"] = _digest(body)
    return (json.dumps(body | {"digest": manifest["digest"]}, indent=1, allow_nan=False) + "\n").encode()


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads(path.read_bytes())
        version = manifest["schema_version"]
    except (OSError, ValueError, KeyError, TypeError) as exc:
        raise IntegrityError(f"{path} cannot be read as a manifest ({exc}). {_REMAKE}") from exc
    if version != SCHEMA_VERSION:
        raise BundleError(
            f"{path} has schema version {version}, this resnet-deploy reads {SCHEMA_VERSION}. "
            "Use the version that made it, or make the bundle again"
        )
    digest = manifest.pop("digest", None)
    if digest != _digest(manifest):
        raise IntegrityError(f"{path} was changed by hand: its digest does not match. {_REMAKE}")
    manifest["digest"] = digest
    return dict(manifest)
