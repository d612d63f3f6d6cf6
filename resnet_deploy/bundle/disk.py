"""A bundle's folder as it is on disk now: its manifest, and what is wrong with a file of it."""

from __future__ import annotations

from pathlib import Path

from resnet_deploy._files import sha256_file
from resnet_deploy.bundle import codec
from resnet_deploy.bundle.manifest import Artifact, Manifest
from resnet_deploy.bundle.names import MANIFEST, STAGING
from resnet_deploy.errors import BundleError, IntegrityError

_LARGEST = 1 << 28  # bytes of a manifest


def read_manifest(path: Path) -> Manifest | None:
    """The manifest of a folder as it is on disk now; None where there is none. Raises IntegrityError and BundleError."""
    file = path / MANIFEST
    remake = f"Make it again with `resnet-deploy export ... -o {path} --overwrite`"
    try:
        if not file.is_file():
            return None
        if file.stat().st_size > _LARGEST:
            raise IntegrityError(f"{file} has {file.stat().st_size:,} bytes: it is no manifest. {remake}")
        data = file.read_bytes()
    except OSError as exc:
        raise BundleError(f"{file} cannot be read: {exc.strerror}") from exc
    return codec.decode_manifest(data, file, remake)


def damage(path: Path, entry: Artifact) -> str | None:
    """What is wrong with a file, in words; None where its bytes are those that were recorded."""
    if path.is_symlink() or not path.is_file():
        gone = "is a link" if path.is_symlink() else "is gone"
        return f"{path} {gone}, but the manifest names it"
    if (digest := sha256_file(path)) != entry.sha256:
        return f"{path} was changed after it was made: its SHA-256 is {digest[:16]}…, the manifest has {entry.sha256[:16]}…"
    return None


def has_manifest(path: Path) -> bool:
    """Whether a folder holds a bundle, or one that a killed run had all but moved into place."""
    return (path / MANIFEST).exists() or (path / STAGING / MANIFEST).exists()


def check_folder(path: Path) -> None:
    """Raise BundleError where a folder cannot become a bundle: it is a file, or holds other things."""
    if path.exists() and not path.is_dir():
        raise BundleError(f"{path} is a file; a bundle is a folder")
    if path.is_dir() and not has_manifest(path) and any(not entry.name.startswith(".") for entry in path.iterdir()):
        raise BundleError(f"{path} is not empty and holds no bundle; choose another folder")
