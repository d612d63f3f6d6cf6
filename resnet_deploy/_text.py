"""Text from outside, as a message, a file or a terminal may have it."""

from __future__ import annotations

import os
from pathlib import Path


def printable(text: str) -> str:
    """Text on one line: control characters, and bytes of a path that are not UTF-8, as escapes."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def text_of(path: bytes | Path) -> str:
    """A path as text: as it is where it is UTF-8, else a file URI with its bytes percent-encoded."""
    raw = os.fsencode(path)
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return Path(os.fsdecode(raw)).absolute().as_uri()
