"""Whether a row of two runs became slower or faster by more than noise.

A row's noise is an interval of the ratio of its medians, second run over first, at 95 %:

    samples   where both runs kept raw samples: Student's, of the logarithms of each turn's median. Backends are measured in
              `ROUNDS` turns, and samples of one turn share the state of the machine: they are one piece of evidence, not
              hundreds. Degrees of freedom are those of the run with fewer turns, which errs on the side of noise.
    iqr       otherwise: each median by 1.57 IQR / sqrt(n) (McGill, Tukey and Larsen, "Variations of box plots", 1978),
              with n no more than those turns, for the same reason. Of 3 or fewer samples, and of an unknown number, the
              interval has no end.
    none      where both runs have one and the same measurement, which a bundle reuses.

A row is slower or faster where its interval leaves out 1, and the same where the interval lies within the limit on both sides
of 1 (two one-sided tests: Schuirmann 1987; without a limit, within 10 %). It is inconclusive otherwise, and wherever the
interval has the limit within it. A row is a regression where the whole interval is beyond the limit. All of that speaks of the
noise within the runs: two runs on a machine whose clocks or neighbours differ can differ truly and for no fault of the code,
which the limit is to allow for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from resnet_deploy.parity.confidence import FEWEST, median_half_width
from resnet_deploy.reporting.rows import Row

ROUNDS = 6  # of `MeasureConfig`
NARROW = 0.10  # what counts as the same where no limit says it
KEPT = 600  # samples of a row that are written with a report: 100 a turn
_T = {3: 3.182, 4: 2.776, 5: 2.571}  # Student's t at 97.5 %, by degrees of freedom


def margin_of(limit: float | None) -> float:
    """How far from 1 a ratio may be and count as the same."""
    return NARROW if limit is None else limit


def judge_interval(low: float, high: float, limit: float | None) -> str:
    """What the interval of a ratio of latencies says, second run over first: slower, faster, same or inconclusive."""
    most = 1 + margin_of(limit)
    if limit is not None and low <= most < high:
        return "inconclusive"
    if low > 1 or high < 1:
        return "slower" if low > 1 else "faster"
    return "same" if 1 / most <= low and high <= most else "inconclusive"


def ratio_interval(old: Row, new: Row) -> tuple[float, float, str]:
    """The 95 % interval of the ratio of medians, holding the ratio itself."""
    ratio = new.p50_s / old.p50_s
    if _is_one_measurement(old, new):
        return ratio, ratio, "none"
    if min(len(old.host_s), len(new.host_s)) >= FEWEST:
        before, after = _turns(old.host_s), _turns(new.host_s)
        spread = math.sqrt(sum(float(np.var(turns, ddof=1)) / len(turns) for turns in (before, after)))
        half = _T[min(len(before), len(after)) - 1] * spread
        change = float(np.mean(after) - np.mean(before))
        return min(math.exp(change - half), ratio), max(math.exp(change + half), ratio), "samples"
    first, second = _notch(old), _notch(new)
    if first is None or second is None:
        return 0.0, math.inf, "iqr"
    low = max(0.0, new.p50_s - second) / (old.p50_s + first)
    high = (new.p50_s + second) / (old.p50_s - first) if old.p50_s > first else math.inf
    return low, high, "iqr"


def _is_one_measurement(old: Row, new: Row) -> bool:
    """A bundle reuses what it has: two runs can hold the same figures of the same time."""
    same = old.result["latency_s"] == new.result["latency_s"] and old.samples == new.samples
    return same and old.result.get("measured") is not None and old.result["measured"] == new.result.get("measured")


def _notch(row: Row) -> float | None:
    """Half of a median's interval, in seconds; None where there are too few samples to have one."""
    return median_half_width(row.iqr_s, row.samples, ROUNDS)


def evenly(samples: Sequence[float], kept: int = KEPT) -> NDArray[np.float64]:
    """At most so many of a row's samples, evenly over the time of its measurement: (min(n, kept),)."""
    values = np.asarray(samples, np.float64)
    return np.asarray(values[np.linspace(0, len(values) - 1, min(len(values), kept)).round().astype(int)])


def _turns(samples: Sequence[float]) -> NDArray[np.float64]:
    """The logarithm of each turn's median: (min(n, ROUNDS),)."""
    parts = np.array_split(np.asarray(samples, np.float64), min(len(samples), ROUNDS))
    return np.log([np.median(part) for part in parts])
