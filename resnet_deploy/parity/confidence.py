"""Proportions of images: 95 % intervals of a difference, McNemar's test, and which images were right, as text; and
the interval of a median.

Numpy alone. Two answers to the same images are paired: only the images on which they differ count. Where it is not known
which those are, or the images are not the same, the proportions are compared as independent ones, which needs a larger
difference.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_Z = 1.959964  # 97.5 % of a normal distribution
FEWEST = 4  # samples that a median's interval can be made of


def mcnemar(gained: int, lost: int) -> float:
    """McNemar's exact two-sided p-value: both kinds of disagreement are equally likely (McNemar 1947, binomial form).

    Args:
        gained: images that only the candidate gets right.
        lost: images that only the reference gets right.

    Returns:
        A probability; 1 where the two never disagree.
    """
    total = gained + lost
    if total == 0:
        return 1.0
    # In logarithms: the coefficients overflow floats beyond about a thousand disagreements.
    logs = [_log_binomial(total, k) - total * math.log(2) for k in range(min(gained, lost) + 1)]
    return min(1.0, 2 * sum(math.exp(value) for value in logs))


def _log_binomial(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def paired_interval(gained: int, lost: int, count: int, z: float = _Z) -> tuple[float, float]:
    """95 % interval of a difference of paired proportions: Wald's with half an observation added to each of the four
    cells (Agresti and Min, "Simple improved confidence intervals for comparing matched proportions", 2005).

    Args:
        gained: images that only the candidate gets right.
        lost: images that only the reference gets right.
        count: images in all.
        z: quantile of the normal distribution, 1.96 for 95 %.

    Returns:
        Both ends of the candidate's accuracy less the reference's, as fractions.
    """
    up, down, total = gained + 0.5, lost + 0.5, count + 2.0
    difference = (up - down) / total
    error = z * math.sqrt(max(0.0, up + down - (up - down) ** 2 / total)) / total
    return max(-1.0, difference - error), min(1.0, difference + error)


def describe_difference(difference: float, low: float, high: float) -> str:
    """A difference with its 95 % interval in percentage points: `-0.33 points (95%: -1.25 to +0.59)`.

    Args:
        difference: of two fractions.
        low, high: the ends of its interval, fractions too.

    Returns:
        The text.
    """
    return f"{difference * 100:+.2f} points (95%: {low * 100:+.2f} to {high * 100:+.2f})"


def median_half_width(iqr: float, samples: int, rounds: int) -> float | None:
    """Half of the 95 % interval of a median: 1.57 IQR / sqrt(n) (McGill, Tukey and Larsen, "Variations of box plots", 1978).

    Args:
        iqr: interquartile range of the samples, in any unit.
        samples: how many there are.
        rounds: in which they were measured. n is at most this: samples of one round share the state of the machine.

    Returns:
        In the unit of `iqr`; None for fewer than 4 samples, which have none.
    """
    return None if samples < FEWEST else 1.57 * iqr / math.sqrt(min(samples, rounds))


def wilson_interval(proportion: float, count: int, z: float = _Z) -> tuple[float, float]:
    """95 % score interval of one proportion (Wilson 1927).

    Args:
        proportion: a fraction.
        count: trials.
        z: quantile of the normal distribution, 1.96 for 95 %.

    Returns:
        Both ends, as fractions.
    """
    middle = proportion + z * z / (2 * count)
    half = z * math.sqrt(proportion * (1 - proportion) / count + (z / (2 * count)) ** 2)
    return max(0.0, (middle - half) / (1 + z * z / count)), min(1.0, (middle + half) / (1 + z * z / count))


def unpaired_interval(before: float, before_count: int, after: float, after_count: int) -> tuple[float, float]:
    """95 % interval of a difference of two independent proportions: Newcombe's hybrid of their two score intervals
    ("Interval estimation for the difference between independent proportions", 1998, method 10).

    Args:
        before, after: the fractions.
        before_count, after_count: trials of each.

    Returns:
        Both ends of `after - before`.
    """
    low1, high1 = wilson_interval(before, before_count)
    low2, high2 = wilson_interval(after, after_count)
    difference = after - before
    low = difference - math.hypot(after - low2, high1 - before)
    high = difference + math.hypot(high2 - after, before - low1)
    return max(-1.0, low), min(1.0, high)


def pack(outcomes: Sequence[bool] | NDArray[np.bool_]) -> str:
    """Yes or no of each image, in order, as text: base64 of a bit each, the first the highest of its byte."""
    return base64.b64encode(np.packbits(np.asarray(outcomes, bool)).tobytes()).decode()


def unpack(text: str, count: int) -> NDArray[np.bool_]:
    """Read what `pack` wrote.

    Args:
        text: in base64.
        count: outcomes.

    Returns:
        (count,) bool.

    Raises:
        ValueError: it is not base64, or not of so many outcomes.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as exc:
        raise ValueError(f"the outcomes of images are not base64 ({exc})") from None
    bits = np.unpackbits(np.frombuffer(data, np.uint8)).astype(bool)
    if len(data) != (count + 7) // 8 or bits[count:].any():
        raise ValueError(f"the outcomes are of another number of images than {count}")
    return bits[:count]
