"""The highest rate at which the Server scenario is VALID. Every probe is a LoadGen run, and its verdict LoadGen's."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from resnet_deploy.benchmarking.mlperf.loadgen import Outcome

UP, DOWN = 1.25, 0.5  # steps of the rate until one is VALID and one is not
MARGINAL = 0.05  # late queries of an INVALID run that may be the machine's fault: it gets another go
MOST_RUNS = 24


@dataclass
class Search:
    """best: the highest rate that was VALID, queries a second, and its run. above: the lowest above it that was not."""

    best: tuple[float, Outcome] | None = None
    above: tuple[float, Outcome] | None = None
    runs: int = 0

    def worst(self) -> tuple[float, Outcome]:
        """The lowest rate, of a search in which none was VALID."""
        assert self.above is not None
        return self.above


def search_rate(
    probe: Callable[[float], Outcome], start: float, *, floor: float, tolerance: float, latency_bound_s: float
) -> Search:
    """Bracket the highest VALID rate from `start`, then bisect until the two ends are within the tolerance.

    probe: a LoadGen run at a rate. One that fails by little is repeated once: on any machine a few queries are late for
    reasons of their own. Given up below `floor`, and where even the fastest answer was late.
    """
    search, rate = Search(), start
    while search.runs < MOST_RUNS:
        outcome = probe(rate)
        search.runs += 1
        if _marginal(outcome):
            outcome = probe(rate)
            search.runs += 1
        if outcome.valid:
            search.best = (rate, outcome)
        else:
            search.above = (rate, outcome)
        if search.best is None:
            if rate <= floor or hopeless(outcome, latency_bound_s):
                break
            completed = outcome.values.get("result_completed_samples_per_sec", rate)
            rate = max(floor, min(rate * DOWN, completed))
        elif search.above is None:
            rate *= UP
        elif search.above[0] <= search.best[0] * (1 + tolerance):
            break
        else:
            rate = math.sqrt(search.best[0] * search.above[0])
    return search


def _marginal(outcome: Outcome) -> bool:
    values = outcome.values
    return not outcome.valid and values["result_overlatency_query_count"] <= MARGINAL * values["result_query_count"]


def hopeless(outcome: Outcome, latency_bound_s: float) -> bool:
    """Whether even the fastest answer was late: then no rate can be met."""
    return bool(outcome.values["result_min_latency_ns"] > latency_bound_s * 1e9)
