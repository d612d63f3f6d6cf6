"""HTML and SVG as text that cannot be broken out of: what is not markup already is escaped on its way in."""

from __future__ import annotations

import re
from collections.abc import Iterable

from markupsafe import Markup, escape

_VOID = {"br", "link", "meta"}
# What XML 1.0 has no character for, or a terminal takes for a command: control characters, and the surrogates that stand for
# undecodable bytes of file names; and the controls that would turn the text around them from left to right into right to left.
_NO_CHARACTER = re.compile(
    "[^\t\n\u0020-\u007e\u00a0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]|[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"
)


def text(value: object) -> Markup:
    """Anything as the text of an element or attribute."""
    return value if isinstance(value, Markup) else escape(encodable(str(value)))


def encodable(value: str) -> str:
    """Without characters that no document and no UTF-8 file can hold, or that would change how others are read."""
    return _NO_CHARACTER.sub("\ufffd", value)


def el(tag: str, *children: object, **attributes: object) -> Markup:
    """An element. Attributes that are None are left out; `class_` is class, and other underscores are hyphens."""
    rendered = "".join(
        f' {name.rstrip("_").replace("_", "-")}="{text(_short(value))}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in _VOID:
        return Markup(f"<{tag}{rendered}>")
    return Markup(f"<{tag}{rendered}>{join(children)}</{tag}>")


def join(parts: Iterable[object]) -> Markup:
    """One after the other; None is nothing."""
    return Markup("".join(text(part) for part in parts if part is not None))


def _short(value: object) -> object:
    """Coordinates to a tenth: a pixel has no more."""
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else value
