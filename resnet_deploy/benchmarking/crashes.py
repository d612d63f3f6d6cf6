"""Runtimes that take the whole process with them: what a process is at, and what earlier ones died of.

A segmentation fault in a runtime's own code, or the system that ends a process when memory is short, cannot be caught in the
process. A second process can: it knows by `Crashes.at` what the first one was at, and starts a third without that.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

SWEEP, SCENARIO, PROFILE = "sweep", "scenario", "profile"


@dataclass(frozen=True, kw_only=True)
class Step:
    """What a process is at.

    candidate: as text. batch: of a measurement or profile; None while a candidate is built, loaded or judged. kind: sweep,
    scenario or profile. scenario: of LoadGen.
    """

    candidate: str
    batch: int | None = None
    kind: str = SWEEP
    scenario: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def _nobody(step: Step | None) -> None:
    """Nobody asks what this process is at."""


@dataclass(kw_only=True)
class Crashes:
    """What earlier processes died of, and where this one says what it is at.

    known: steps that are left out, each with what became of it, in words. note: told each step as it begins, and None, or
    the step around it, when it ends.
    """

    known: Mapping[Step, str] = field(default_factory=dict)
    note: Callable[[Step | None], None] = _nobody
    _step: Step | None = None

    @contextlib.contextmanager
    def at(self, step: Step) -> Iterator[None]:
        """What happens in the block is this step; a process that dies within it died of it."""
        around, self._step = self._step, step
        self.note(step)
        try:
            yield
        finally:
            self._step = around
            self.note(around)
