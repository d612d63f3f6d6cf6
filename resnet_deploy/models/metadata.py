"""What a checkpoint says of itself beside its weights: the architecture, the preprocessing, and the names of the classes."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from resnet_deploy import _json
from resnet_deploy.errors import UsageError
from resnet_deploy.limits import MAX_SIDE
from resnet_deploy.specs import MEAN_RANGE, STD_RANGE, Preprocessing

_Pixels = Annotated[int, msgspec.Meta(ge=1, le=MAX_SIDE)]
_Mean = Annotated[float, msgspec.Meta(ge=MEAN_RANGE[0], le=MEAN_RANGE[1])]
_Std = Annotated[float, msgspec.Meta(ge=STD_RANGE[0], le=STD_RANGE[1])]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
_BREAKS = {"Cc", "Cs", "Zl", "Zp"}  # control characters, halves of characters, separators of lines and paragraphs


@dataclass(frozen=True, kw_only=True)
class _PreprocessingRanges:
    """What a recorded preprocessing must have, whatever else it has."""

    resize: _Pixels
    crop: _Pixels
    mean: tuple[_Mean, _Mean, _Mean]
    std: tuple[_Std, _Std, _Std]


@dataclass(frozen=True, kw_only=True)
class _Record:
    architecture: str | None = None
    preprocessing: _PreprocessingRanges | None = None
    class_names: tuple[_Name, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What `save` recorded beside the weights; None for what was not.

    class_names: by index. Two classes may have one name: ImageNet has two that are called crane.
    """

    architecture: str | None = None
    preprocessing: Preprocessing | None = None
    class_names: tuple[str, ...] | None = None


def parse_metadata(text: str) -> Metadata:
    """Read metadata from JSON text; fields that are not known are left alone.

    Raises:
        ValueError: the field that is wrong and how: a size, mean or deviation outside `Preprocessing`'s ranges, a class
            name that is no text, empty, or more than one line.
    """
    try:
        raw = json.loads(text)
    except RecursionError as exc:
        raise ValueError("it is nested too deeply") from exc
    except ValueError as exc:
        raise ValueError(f"it is not JSON ({exc})") from exc
    record = _json.convert(raw, _Record)
    for index, name in enumerate(raw.get("class_names") or ()):  # as it was written: `convert` escapes half characters
        if bad := next((character for character in name if unicodedata.category(character) in _BREAKS), None):
            raise ValueError(f"class_names[{index}] has the character U+{ord(bad):04X}, and a name is one line of text")
        if not name.strip():
            raise ValueError(f"class_names[{index}] is blank")
    return Metadata(
        architecture=record.architecture, preprocessing=_preprocessing(raw.get("preprocessing")), class_names=record.class_names
    )


def _preprocessing(raw: Any) -> Preprocessing | None:
    try:
        return None if raw is None else _json.convert(raw, Preprocessing)
    except UsageError as exc:
        raise ValueError(f"preprocessing: {exc}") from exc
