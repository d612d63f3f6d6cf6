"""Whether a GPU's clock has stopped to rise: an idle one's is low, and what is measured then is the rise."""

from __future__ import annotations

import time
from collections.abc import Callable

EVERY_S = 0.1
STANDS = 0.01  # of the clock, between three looks


class ClockLooks:
    """Looks at a clock, ten a second. read: gives it in Hz, None where it cannot be told."""

    def __init__(self, read: Callable[[], float | None]) -> None:
        self._read, self._due_s = read, 0.0
        self._seen: list[float | None] = []

    def stand(self) -> bool:
        """Whether the last three looks found the same clock; True where there is none to be seen."""
        if (now_s := time.perf_counter()) >= self._due_s:
            self._seen, self._due_s = [*self._seen[-2:], self._read()], now_s + EVERY_S
        known = [value for value in self._seen if value is not None]
        if not known:
            return True
        return len(known) == 3 and max(known) - min(known) <= STANDS * max(known)
