"""Figures that are not finite, as JSON spells them: it has no number for NaN and infinity, and dropping one would hide it.

Types for the fields of records that may hold such a figure: msgspec reads a number in the range, or one of three words, and
the dataclass's `__post_init__` turns the word into the float that it spells (`restore_figures`). For mypy they are floats.
"""

from __future__ import annotations

import math
from dataclasses import fields
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

SPELLED = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}

if TYPE_CHECKING:
    Figure = float
    Magnitude = float
    Fraction = float
    Cosine = float
    Difference = float
else:
    _Word = Literal["nan", "inf", "-inf"]
    Figure = float | _Word
    Magnitude = Annotated[float, msgspec.Meta(ge=0)] | _Word
    Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)] | _Word
    Cosine = Annotated[float, msgspec.Meta(ge=-1, le=1)] | _Word
    Difference = Annotated[float, msgspec.Meta(ge=-1, le=1)] | _Word


def spell(value: Any) -> Any:
    """Plain values (dicts, lists, numbers) with every float that is not finite as a word: `nan`, `inf` or `-inf`."""
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, dict):
        return {name: spell(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [spell(item) for item in value]
    return value


def restore_figures(record: Any) -> None:
    """Turn words in the fields of a frozen dataclass without texts into the floats that they spell; for `__post_init__`."""
    for field in fields(record):
        value = getattr(record, field.name)
        if isinstance(value, str) and value in SPELLED:
            object.__setattr__(record, field.name, SPELLED[value])
