"""Progress bars."""

from __future__ import annotations

import sys
from typing import Any


class Bars:
    """Library progress as bars on stderr; nothing where that is not a terminal."""

    def __init__(self) -> None:
        self._what = ""
        self._bar: Any = None

    def __call__(self, what: str, done: int, total: int | None) -> None:
        if not sys.stderr.isatty():
            return
        from tqdm import tqdm

        if what != self._what:
            self.close()
            self._what = what
            self._bar = tqdm(
                desc=what, total=total, initial=done, file=sys.stderr, leave=False,
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
