"""Progress bars."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from resnet_deploy.terminal.visible import visible


class Bars:
    """Library progress as bars on stderr; nothing where that is not a terminal. note: also told what is being done."""

    def __init__(self, note: Callable[[str], None] | None = None) -> None:
        self._what = ""
        self._note = note
        self._bar: Any = None

    def __call__(self, what: str, done: int, total: int | None) -> None:
        if self._note is not None:
            self._note(what)
        if not sys.stderr.isatty():
            return
        from tqdm import tqdm

        if what != self._what:
            self.close()
            self._what = what
            self._bar = tqdm(
                desc=visible(what, lines=False), total=total, initial=done, file=sys.stderr, leave=False,
                bar_format="{desc}" if total is None else None,
            )  # fmt: skip
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
