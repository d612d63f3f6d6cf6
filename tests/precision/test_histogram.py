"""Histograms do not depend on batches or their order; thresholds are those of the plain definitions."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from resnet_deploy.errors import UsageError
from resnet_deploy.precision.histogram import METHODS, Histogram, entropy, mean_square

VALUES = np.random.default_rng(0).standard_normal(50_000).astype(np.float32) * 3


def of(*batches: NDArray[np.float32]) -> Histogram:
    histogram = Histogram()
    for batch in batches:
        histogram.add(batch)
    return histogram


@given(
    arrays(np.float32, st.integers(2, 60), elements=st.floats(-1e5, 1e5, width=32)),
    st.integers(1, 10),
    st.randoms(use_true_random=False),
)
@settings(max_examples=100)
def test_any_batches_in_any_order_are_the_same(values: NDArray[np.float32], parts: int, random: object) -> None:
    whole = of(values)
    shuffled = values.copy()
    np.random.default_rng(len(values)).shuffle(shuffled)
    parted = of(*[part for part in np.array_split(shuffled, parts) if len(part)])
    assert np.array_equal(whole.counts, parted.counts) and whole.counts.sum() == len(values)
    assert (whole.low, whole.high, whole.elements) == (parted.low, parted.high, parted.elements)
    for method in METHODS:
        assert whole.threshold(method, 127) == parted.threshold(method, 127)


def test_extremes_are_exact_and_zero_is_nothing() -> None:
    histogram = of(np.array([-2.5, 0.0, 7.25], np.float32))
    assert (histogram.low, histogram.high, histogram.largest) == (-2.5, 7.25, 7.25)
    assert histogram.threshold("max", 127) == 7.25
    dead = of(np.zeros(9, np.float32))
    assert dead.largest == 0.0 and all(dead.threshold(method, 127) == 0.0 for method in METHODS)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_seen(bad: float) -> None:
    assert not of(np.array([1.0, bad], np.float32)).finite


@pytest.mark.parametrize("percent", [50.0, 99.0, 99.9, 99.99])
@pytest.mark.parametrize("relu", [False, True])
def test_percentiles_are_numpys(percent: float, relu: bool) -> None:
    values = np.maximum(VALUES, 0) if relu else VALUES
    expected = np.percentile(np.abs(values), percent)
    found = of(values).threshold(f"percentile:{percent}", 127)
    assert found == pytest.approx(expected, rel=2e-3, abs=1e-6)


def plain_entropy(counts: NDArray[np.float64], levels: int) -> float:
    """As published, bin by bin."""
    best, least = len(counts), math.inf
    for bins in range(len(counts), levels - 1, -8):
        p = counts[:bins].copy()
        p[-1] += counts[bins:].sum()
        edges = np.linspace(0, bins, levels + 1).round().astype(int)
        q = np.zeros(bins)
        for start, end in itertools.pairwise(edges):
            inside = counts[start:end].sum()
            filled = counts[start:end] > 0
            if end == bins and counts[bins:].sum() > 0:
                filled[-1] = True
            if filled.any():
                q[start:end] = np.where(filled, inside / filled.sum(), 0)
        if ((p > 0) & (q == 0)).any():
            continue
        p, q = p / p.sum(), q / q.sum()
        used = p > 0
        divergence = float((p[used] * np.log(p[used] / q[used])).sum())
        if divergence < least:
            best, least = bins, divergence
    return best / len(counts)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("levels", [127, 255])
def test_entropy_is_the_published_search(seed: int, levels: int) -> None:
    rng = np.random.default_rng(seed)
    shapes = [rng.standard_normal(20_000), rng.exponential(1, 20_000), rng.lognormal(0, 1, 20_000), rng.integers(0, 17, 20_000)]
    counts = of(shapes[seed].astype(np.float32)).linear(512)
    assert entropy(counts, levels) == pytest.approx(plain_entropy(counts, levels))


@pytest.mark.parametrize("seed", range(3))
def test_mean_square_beats_every_other_threshold(seed: int) -> None:
    """Against the error on the values themselves."""
    rng = np.random.default_rng(seed)
    values = [rng.standard_normal(30_000), rng.laplace(0, 1, 30_000), np.append(rng.standard_normal(30_000), 60.0)][seed]
    values = np.abs(values)
    histogram = of(values.astype(np.float32))

    def error(threshold: float) -> float:
        step = threshold / 127
        return float(((np.minimum(np.rint(values / step), 127) * step - values) ** 2).mean())

    found = error(histogram.threshold("mse", 127))
    assert found <= 1.03 * min(error(share * histogram.largest) for share in np.geomspace(0.05, 1, 60))
    assert found < error(histogram.largest) or seed == 0


def test_mean_square_of_one_value_keeps_it() -> None:
    counts = np.zeros(2048)
    counts[-1] = 5
    assert mean_square(counts, 127) == 1.0


@pytest.mark.parametrize("method", ["percentile", "percentile:0", "percentile:101", "percentile:x", "minmax", ""])
def test_unknown_methods(method: str) -> None:
    with pytest.raises(UsageError, match="unknown calibration method"):
        of(VALUES).threshold(method, 127)
