"""Text that comes from names, files and runtimes, made safe to print."""

from __future__ import annotations

import re

# Control characters, C1 (a terminal takes them for escape sequences) and separators of lines among them; controls that turn
# the text around them from left to right into right to left; tags that nobody sees; lone surrogates.
_HIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def visible(text: str, *, lines: bool = True) -> str:
    """Text with every control character spelled out, as \\x1b or \\u202e; a byte of a file name that is not UTF-8 as \\xff.

    lines: whether line breaks and tabs stay. In a cell of a table or a message of one line they would forge the next.
    """
    spelled = _HIDDEN.sub(_spelled, text)
    return spelled if lines else spelled.replace("\n", "\\n").replace("\t", "\\t")


def _spelled(character: re.Match[str]) -> str:
    code = ord(character[0])
    if 0xDC80 <= code <= 0xDCFF:
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
