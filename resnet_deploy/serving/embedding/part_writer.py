"""Answers on their way to disk: gathered into parts, which a thread of its own writes, so that the model need not wait."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from resnet_deploy.serving.embedding.parts import Parts
from resnet_deploy.serving.embedding.tables import Answers


class PartWriter:
    """Writes parts of answers; all of them are on disk when its `with` block has ended.

    Args:
        parts: where they go.
        answers: makes an empty collection.
        checkpoint_s: seconds after which a part is written although it is not full.
    """

    def __init__(self, parts: Parts, answers: Callable[[], Answers], checkpoint_s: float) -> None:
        self._parts, self._new_answers, self._checkpoint_s = parts, answers, checkpoint_s
        self._answers = answers()
        self._since_s = time.monotonic()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._writing: Future[None] | None = None

    def add(self, *result: Any) -> tuple[bytes, str] | None:
        """Take answers, as `Answers.add` does; returns the first bad path and its reason."""
        first_bad = self._answers.add(*result)
        if self._answers.full or time.monotonic() - self._since_s >= self._checkpoint_s:
            self._write()
        return first_bad

    def _write(self) -> None:
        if self._writing is not None:
            self._writing.result()  # one part waits, no more; and a full disk is an error here
        answers, self._answers = self._answers, self._new_answers()
        self._writing = self._pool.submit(self._put, answers)
        self._since_s = time.monotonic()

    def _put(self, answers: Answers) -> None:
        for start, table in answers.tables():
            self._parts.add(start, table)

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            self._write()
            self._pool.shutdown()
            assert self._writing is not None
            self._writing.result()
        except Exception:
            if kind is None:  # else it was this that failed, or something worse
                raise
