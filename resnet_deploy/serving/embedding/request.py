"""What an output of `embed` was made from, as it stands beside its parts and in its metadata; typed, and checked when read."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from resnet_deploy import _json
from resnet_deploy.bundle.fields import Name, Sha256
from resnet_deploy.errors import DeployError
from resnet_deploy.specs import Preprocessing

SCHEMA_VERSION: Final = 2
FORMAT: Final = "resnet-deploy embed"
_Kind = TypeVar("_Kind")


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """The images that were listed.

    Args:
        count: how many.
        sha256: of every path, size, time of writing and time of change, in their order.
    """

    count: Annotated[int, msgspec.Meta(ge=1)]
    sha256: Sha256


@dataclass(frozen=True, kw_only=True)
class PixelSettings(Preprocessing):
    """What becomes of an image: the bundle's preprocessing, and what it leaves open.

    Args:
        input: the bundle's input format.
        max_pixels: an image of more is bad.
    """

    input: Name
    max_pixels: Annotated[int, msgspec.Meta(ge=1)]

    @classmethod
    def of(cls, preprocessing: Preprocessing, *, input_format: str, max_pixels: int) -> PixelSettings:
        """The settings of a bundle's preprocessing."""
        values = {field.name: getattr(preprocessing, field.name) for field in fields(preprocessing)}
        return cls(**values, input=input_format, max_pixels=max_pixels)


@dataclass(frozen=True, kw_only=True)
class EmbedRequest:
    """What an output depends on: equal requests, equal outputs.

    Args:
        architecture: the bundle's.
        head: what the model answers with.
        file: SHA-256 of the file that the backend runs.
        backend: with its options and precision.
        images: which they are.
        preprocessing: what becomes of them.
        packages: versions of those that compute; None where one is not installed.
    """

    architecture: Name
    head: Name
    file: Sha256
    backend: Name
    images: ImageSet
    preprocessing: PixelSettings
    packages: dict[str, str | None]

    @property
    def key(self) -> str:
        """SHA-256 of all of it."""
        return hashlib.sha256(_json.encode(self, indent=None)).hexdigest()

    def differences(self, earlier: EmbedRequest) -> list[str]:
        """What differs from an earlier request, as a message has it."""
        then, now = dict(_leaves(_json.plain(earlier))), dict(_leaves(_json.plain(self)))
        changed = [name for name in {**then, **now} if then.get(name) != now.get(name)]
        texts = [f"{name} {str(then.get(name))[:16]} then, {str(now.get(name))[:16]} now" for name in changed]
        if "images sha256" in changed and "images count" not in changed:
            texts.append("an image's name, size or time of change is another")
        return texts


@dataclass(frozen=True, kw_only=True)
class StoredRequest:
    """A request as a file.

    Args:
        sha256: the request's key, by which one that was changed or damaged is told.
    """

    format: Literal["resnet-deploy embed"] = FORMAT
    schema_version: Literal[2] = SCHEMA_VERSION
    request: EmbedRequest
    sha256: Sha256

    def __post_init__(self) -> None:
        if self.sha256 != self.request.key:
            raise ValueError("its SHA-256 is not the one that it records")


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What a finished output says of itself, in its metadata.

    Args:
        images: how many were listed.
        bad: how many of them are in the table of bad images instead.
        bad_table_sha256: of that table; None where no image was bad.
    """

    format: Literal["resnet-deploy embed"] = FORMAT
    schema_version: Literal[2] = SCHEMA_VERSION
    request: EmbedRequest
    images: Annotated[int, msgspec.Meta(ge=1)]
    bad: Annotated[int, msgspec.Meta(ge=0)]
    bad_table_sha256: Sha256 | None

    def __post_init__(self) -> None:
        if self.images != self.request.images.count or self.bad > self.images:
            raise ValueError(
                f"{self.bad} bad images of {self.images}, where {self.request.images.count} were listed, cannot be"
            )
        if (self.bad_table_sha256 is None) != (self.bad == 0):
            raise ValueError("the SHA-256 of the table of bad images must be there where there are any, and only there")


@dataclass(frozen=True, kw_only=True)
class OtherVersion:
    """Something of `embed`'s that another version of it wrote."""

    schema_version: int


@dataclass(frozen=True, kw_only=True)
class Damaged:
    """Something that cannot be read, or is not what was written.

    Args:
        reason: what is wrong, and in which field.
        ours: whether `embed` wrote it nonetheless, by what is left of it.
    """

    reason: str
    ours: bool


@dataclass(frozen=True, kw_only=True)
class _Version:
    schema_version: int | None = None
    request: Any = None


def read_request(data: bytes) -> StoredRequest | OtherVersion | Damaged:
    """A request's file, whatever became of it."""
    return _read(data, StoredRequest)


def read_summary(data: bytes) -> Summary | OtherVersion | Damaged:
    """An output's metadata, whatever became of it."""
    return _read(data, Summary)


def _read(data: bytes, kind: type[_Kind]) -> _Kind | OtherVersion | Damaged:
    try:
        return _json.decode(data, kind)
    except (ValueError, DeployError) as exc:  # DeployError: preprocessing that cannot be
        reason = str(exc)
    version = _version(data)
    if version is not None and version != SCHEMA_VERSION:
        return OtherVersion(schema_version=version)
    ours = version is not None or FORMAT.encode() in data or re.search(rb'"max_pixels": \d', data) is not None
    return Damaged(reason=reason, ours=ours)


def _version(data: bytes) -> int | None:
    try:
        header = _json.decode(data, _Version)
        if header.schema_version is None and isinstance(header.request, dict):
            return _json.convert(header.request, _Version).schema_version  # version 1 had it there
        return header.schema_version
    except ValueError:
        return None


def _leaves(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from ((f"{name} {inner}", leaf) for inner, leaf in _leaves(value))
        else:
            yield name, value
