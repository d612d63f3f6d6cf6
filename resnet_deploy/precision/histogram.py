"""What values a tensor takes, as counts in bins that never move: a stream of batches in any order gives the same counts.

A bin is a float's exponent and the first 11 bits of its significand, so a bin is at most 1/2,048 of the largest value wide
whatever that value is, and nothing has to be known before the first batch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from resnet_deploy.specs import CALIBRATION_METHODS, check_calibration_method

_SHIFT = 12  # of a float32's 23 bits of significand, 11 are kept
_PER_OCTAVE = 1 << (23 - _SHIFT)
_SMALLEST, _LARGEST = -24, 17  # octaves: below 2**-24 is zero, above 2**17 is the last bin
_FIRST = (127 + _SMALLEST) * _PER_OCTAVE
_MAGNITUDE = (1 << (31 - _SHIFT)) - 1
_BINS = (_LARGEST - _SMALLEST) * _PER_OCTAVE
_EDGES = (
    ((np.arange(_FIRST, _FIRST + _BINS + 1, dtype=np.int64) << _SHIFT).astype(np.uint32)).view(np.float32).astype(np.float64)
)
_EDGES[0] = 0.0

_CHUNK = 1 << 19  # elements at a time, so that the steps between them stay in a core's cache

LINEAR_BINS = 2048
_STRIDE = 8  # of entropy's candidates: 0.4 % of the range
INT8_LEVELS = 127  # on each side of zero, symmetric
UINT8_LEVELS = 255

METHODS = CALIBRATION_METHODS


@dataclass
class Histogram:
    """Of one tensor: exact extremes, and counts of magnitudes. finite: no NaN or Inf was seen."""

    low: float = math.inf
    high: float = -math.inf
    elements: int = 0
    finite: bool = True
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_BINS, np.int64))

    def add(self, values: NDArray[np.float32]) -> None:
        """Count a batch of any shape."""
        flat = np.ascontiguousarray(values, np.float32).reshape(-1)
        low, high = float(flat.min()), float(flat.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            self.finite = False
            return
        self.low, self.high = min(self.low, low), max(self.high, high)
        self.elements += flat.size
        bits, largest = flat.view(np.int32), max(-low, high)
        for start in range(0, flat.size, _CHUNK):
            bins = bits[start : start + _CHUNK] >> _SHIFT  # a sign bit makes it negative
            if low < 0:
                bins &= _MAGNITUDE
            np.subtract(bins, _FIRST, out=bins)
            np.maximum(bins, 0, out=bins)
            if largest >= 2.0**_LARGEST:
                np.minimum(bins, _BINS - 1, out=bins)
            # As np.bincount, without its copy to 64 bits.
            self.counts += torch.bincount(torch.from_numpy(bins), minlength=_BINS).numpy()

    @property
    def largest(self) -> float:
        """The largest magnitude."""
        return max(abs(self.low), abs(self.high)) if self.elements else 0.0

    def linear(self, bins: int) -> NDArray[np.float64]:
        """Counts of magnitudes above zero in equal bins from zero to the largest."""
        counts = self.counts.astype(np.float64)
        counts[0] = 0  # zero is zero in every quantization: it says nothing of the range
        cumulative = np.concatenate([[0.0], np.cumsum(counts)])
        edges = np.linspace(0.0, self.largest, bins + 1)
        below = np.interp(edges, _EDGES, cumulative)
        below[-1] = cumulative[-1]  # the largest value may stand at the lower end of its bin
        differences: NDArray[np.float64] = np.diff(below)
        return differences

    def threshold(self, method: str, levels: int) -> float:
        """The magnitude at which a quantization of so many levels from zero should saturate. Raises UsageError."""
        if self.largest == 0.0:
            return 0.0
        if method == "max":
            return self.largest
        if method == "entropy":
            return entropy(self.linear(LINEAR_BINS), levels) * self.largest
        if method == "mse":
            return mean_square(self.linear(4 * LINEAR_BINS), levels) * self.largest
        return self._percentile(method)

    def _percentile(self, method: str) -> float:
        check_calibration_method(method)
        percent = float(method.partition(":")[2])
        cumulative = np.concatenate([[0], np.cumsum(self.counts)])
        return min(self.largest, float(np.interp(percent / 100 * self.elements, cumulative, _EDGES)))


def entropy(counts: NDArray[np.float64], levels: int) -> float:
    """The share of the bins that a quantizer should cover: the one of least Kullback-Leibler divergence between the
    clipped distribution and its quantization (S. Migacz, "8-bit inference with TensorRT", GTC 2017).

    A candidate of i bins puts what lies above into its last bin, shares its i bins among the levels, and spreads each
    level's mass evenly over the bins of it that are not empty. All sums are differences of running ones.
    """
    total = counts.sum()
    if total == 0:
        return 1.0
    mass = np.concatenate([[0.0], np.cumsum(counts)])
    filled = np.concatenate([[0], np.cumsum(counts > 0)])
    plogp = np.concatenate([[0.0], np.cumsum(_xlogx(counts))])
    # A row a candidate.
    bins = np.arange(len(counts), min(levels, len(counts)) - 1, -_STRIDE)
    edges = np.linspace(0, bins, levels + 1, axis=1).round().astype(np.int64)
    q, n = np.diff(mass[edges]), np.diff(filled[edges])
    outliers, last = total - mass[bins], counts[bins - 1]
    p = q.copy()
    p[:, -1] += outliers
    n[:, -1] += (outliers > 0) & (last == 0)  # the outliers' bin is not empty
    self_information = plogp[bins] - _xlogx(last) + _xlogx(last + outliers)
    # Sum of p log(p / q), with q spread evenly over the level's bins and scaled to the same total.
    spread = np.log(np.maximum(q, 1e-300) / np.maximum(n, 1)) + np.log(total / np.maximum(q.sum(1), 1e-300))[:, None]
    divergence = self_information - np.where(p > 0, p * spread, 0.0).sum(1)
    divergence[((p > 0) & (q == 0)).any(1)] = math.inf  # mass where the quantization has none
    return float(bins[int(np.argmin(divergence))] / len(counts))


def _xlogx(values: Any) -> Any:
    return np.where(values > 0, values * np.log(np.maximum(values, 1e-300)), 0.0)


def mean_square(counts: NDArray[np.float64], levels: int) -> float:
    """The share of the range that a quantizer should cover: the one of least mean squared error, rounding and clipping."""
    centres = (np.arange(len(counts)) + 0.5) / len(counts)
    kept = counts > 0
    weights, centres = counts[kept], centres[kept]
    shares = np.geomspace(0.05, 1.0, 120)
    errors = [float((weights * (centres - _quantized(centres, share / levels, levels)) ** 2).sum()) for share in shares]
    return float(shares[int(np.argmin(errors))])


def _quantized(values: NDArray[np.float64], step: float, levels: int) -> NDArray[np.float64]:
    return np.minimum(np.rint(values / step), levels) * step
