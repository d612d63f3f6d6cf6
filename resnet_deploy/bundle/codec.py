"""manifest.json as bytes: written with its digest, read back with every field checked.

The file is JSON whose last member is its digest: the SHA-256 of all bytes before that member. It tells accidents and edits,
not forgers: who can write the file can write another digest.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Struct

from resnet_deploy import _json
from resnet_deploy._figures import spell
from resnet_deploy.bundle.manifest import SCHEMA_VERSION, Manifest
from resnet_deploy.errors import BundleError, DeployError, IntegrityError

_DIGEST = re.compile(rb'"digest": "([0-9a-f]{64})"\n\}\n\Z')
_TAIL = len('"digest": ""\n}\n') + 64
_END = "\n}\n"


def now() -> str:
    """The time in UTC, to the second, as ISO 8601."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def key_of(**parts: Any) -> str:
    """A short key of what a result depends on: equal parts, equal key."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def encode_manifest(manifest: Manifest) -> bytes:
    """A manifest as its file has it. Raises ValueError for a figure that is not finite, or a value that could not be read."""
    values = _json.plain(manifest)
    for record in values["parity"].values():  # of a verdict, a figure that is not finite says something: it is spelled out
        record["report"] = spell(record["report"])
    data = signed(values)
    _json.decode(data, Manifest)
    return data


def signed(values: dict[str, Any]) -> bytes:
    """Readable JSON that ends in its own digest. Raises ValueError for a figure that is not finite."""
    text = _json.encode({name: value for name, value in values.items() if name != "digest"}).decode()
    body = f"{text.removesuffix(_END)},\n ".encode()
    return body + f'"digest": "{hashlib.sha256(body).hexdigest()}"{_END}'.encode()


def decode_manifest(data: bytes, path: object, remake: str) -> Manifest:
    """Read manifest.json.

    Args:
        data: the file's bytes.
        path: what it is called in messages.
        remake: the way out, for messages.

    Raises:
        IntegrityError: it was changed, or a field is wrong, which is named.
        BundleError: it is of a version that this one does not read.
    """
    version = _version(data)
    if version == 1:
        from resnet_deploy.bundle.migrate import from_version_1

        return from_version_1(data, path, remake)
    if version is not None and version != SCHEMA_VERSION:
        raise BundleError(
            f"{path} has schema version {version}, this resnet-deploy reads {SCHEMA_VERSION} and 1. "
            "Use the version that made it, or make the bundle again"
        )
    tail = _DIGEST.search(data)
    complaint = _complaint(data) if version is None or tail is None else None
    if complaint is not None:
        raise IntegrityError(f"{path} cannot be read as a manifest: {complaint}. {remake}")
    if tail is None:
        raise IntegrityError(f"{path} was changed by hand: it does not end in its digest. {remake}")
    if hashlib.sha256(data[: len(data) - _TAIL]).hexdigest() != tail[1].decode():
        raise IntegrityError(f"{path} was changed by hand: its digest does not match. {remake}")
    return checked(data, path, remake)


def checked(data: bytes, path: object, remake: str) -> Manifest:
    """The typed content of a manifest's text, whatever its digest. Raises IntegrityError naming the wrong field."""
    try:
        return _json.decode(data, Manifest)
    except (ValueError, DeployError) as exc:
        raise IntegrityError(f"{path} is not a manifest that this resnet-deploy wrote: {exc}. {remake}") from exc


class _Head(Struct):
    schema_version: int


def _version(data: bytes) -> int | None:
    try:
        return msgspec.json.decode(data, type=_Head).schema_version
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


def _complaint(data: bytes) -> str | None:
    try:
        _json.decode(data, Manifest)
    except (ValueError, DeployError) as exc:
        return str(exc)
    return None


def manifest_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of manifest.json; the digest, which is over the text, stands beside it."""
    whole = _json.json_schema(Manifest)
    properties = whole["$defs"]["Manifest"]["properties"]
    properties["digest"] = {"type": "string", "pattern": "^[0-9a-f]{64}$", "description": "SHA-256 of the bytes before it"}
    return {"title": "manifest.json of a resnet-deploy bundle", **whole}


def replaced(manifest: Manifest, section: str, records: Mapping[str, Any]) -> Manifest:
    """A manifest with records added to a section."""
    return msgspec.structs.replace(manifest, **{section: getattr(manifest, section) | dict(records)})
