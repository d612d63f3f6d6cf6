"""MLPerf's four scenarios on one backend, as LoadGen judges them.

Settings are those of MLPerf Inference for ResNet-50 (mlperf.conf), but for the duration, which is 600 s there.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from resnet_deploy import limits
from resnet_deploy.backends.base import Backend
from resnet_deploy.benchmarking.mlperf.loadgen import SAMPLES_PER_QUERY, SCENARIOS, Outcome, ScenarioRequest, run_loadgen
from resnet_deploy.benchmarking.mlperf.samples import Library
from resnet_deploy.benchmarking.mlperf.search import Search, hopeless, search_rate
from resnet_deploy.errors import UsageError
from resnet_deploy.specs import OptionGroup, Progress, silent

SWEEP = "sweep"
SUBMISSION_S = 600.0
LONGEST = 10  # times the least duration: a run that still lacks queries is ended
# The fewest with which LoadGen can be sure of the percentile; of the Server's with one late query. Offline has one query.
MIN_QUERIES = {"single-stream": 64, "multi-stream": 662, "server": 662, "offline": 1}
IDLE = 0.02  # of one stream's rate: below it nothing queues, and a lower rate changes nothing


@dataclass(frozen=True, kw_only=True)
class ScenarioOptions(OptionGroup):
    """What `bench` measures, and how LoadGen's scenarios are run.

    Attributes:
        scenario: one or several of `sweep` (latency by batch size), `single-stream`, `multi-stream`, `server`, `offline`.
        latency_bound: what 99 % of the server scenario's answers must keep, in seconds or as a text with a unit (15ms).
        min_duration: the shortest LoadGen run, likewise; MLPerf's submissions take 10min.
        min_queries: the fewest queries of a run; by default what LoadGen's percentiles need.
        rate_tolerance: how closely the server scenario's highest valid rate is found: the lowest rate that fails is at most
            this fraction higher.
        accuracy: also run LoadGen's accuracy mode, on all of the data.
    """

    scenario: str | Iterable[str] = (SWEEP,)  # a tuple of names, then
    latency_bound: float | str = 0.015
    min_duration: float | str = 10.0
    min_queries: int | None = None
    rate_tolerance: float = 0.05
    accuracy: bool = False

    def __post_init__(self) -> None:
        requested = self.scenario.split(",") if isinstance(self.scenario, str) else [*self.scenario]
        names = tuple(dict.fromkeys(name for part in requested for name in part.split(",") if name))
        object.__setattr__(self, "scenario", names)
        if not names or (unknown := [name for name in names if name not in {SWEEP, *SCENARIOS}]):
            raise UsageError(f"unknown scenario {unknown[0] if names else ''!r}; choose from {SWEEP}, {', '.join(SCENARIOS)}")
        limits.check_all(min_queries=self.min_queries, rate_tolerance=self.rate_tolerance)
        _ = self.latency_bound_s, self.min_duration_s
        if self.accuracy and not self.judged:
            raise UsageError("accuracy is LoadGen's: choose a scenario for it, as in --scenario offline")
        super().__post_init__()

    @property
    def latency_bound_s(self) -> float:
        """`latency_bound` in seconds."""
        return limits.seconds("latency_bound", self.latency_bound)

    @property
    def min_duration_s(self) -> float:
        """`min_duration` in seconds."""
        return limits.seconds("min_duration", self.min_duration)

    @property
    def judged(self) -> tuple[str, ...]:
        """LoadGen's scenarios among those asked for."""
        return tuple(name for name in self.scenario if name in SCENARIOS)

    def scenario_key(self, scenario: str) -> dict[str, Any]:
        """What the figures of a scenario depend on."""
        own = {
            "min_duration_s": self.min_duration_s, "min_queries": self.queries(scenario), "accuracy": self.accuracy,
        }  # fmt: skip
        server = {"latency_bound_s": self.latency_bound_s, "rate_tolerance": self.rate_tolerance}
        return own | (server if scenario == "server" else {})

    def queries(self, scenario: str) -> int:
        """The fewest queries of a run."""
        return MIN_QUERIES[scenario] if self.min_queries is None else self.min_queries


@dataclass(frozen=True, kw_only=True)
class Figures:
    """One scenario on one backend.

    Attributes:
        valid: LoadGen's verdict.
        reason: LoadGen's own words, where it is not VALID.
        metrics: figures by name, with their units.
        notes: hints, and what failed above the Server's rate.
        logs: LoadGen's files by their suffix.
    """

    valid: bool
    reason: str
    metrics: dict[str, float | int]
    notes: list[str] = field(default_factory=list)
    logs: dict[str, bytes] = field(default_factory=dict, repr=False)


@dataclass
class Runner:
    """Runs scenarios on a loaded backend.

    Attributes:
        backend: that answers.
        library: the images.
        options: how scenarios are run.
        max_batch: the largest batch of any inference.
        progress: told what is being done.
        offline_samples_per_s: of an Offline run before, where the search of the Server's rate starts.
    """

    backend: Backend
    library: Library
    options: ScenarioOptions
    max_batch: int
    progress: Progress = silent
    offline_samples_per_s: float | None = None
    _latencies_s: dict[int, float] = field(default_factory=dict)

    def run(self, scenario: str) -> Figures:
        """One scenario; with accuracy, its accuracy mode too. Raises BackendError, or whatever the backend raises."""
        figures = self._server() if scenario == "server" else self._timed(scenario)
        if scenario == "offline":
            self.offline_samples_per_s = float(figures.metrics["samples_per_s"])
        return self._with_accuracy(scenario, figures) if self.options.accuracy else figures

    def latency_s(self, batch: int) -> float:
        """Of one inference of a batch: the better of two, after one that is not counted."""
        if batch not in self._latencies_s:
            images, times = np.stack([self.library.image] * batch), []
            for _ in range(3):
                start = time.perf_counter()
                self.backend.infer(images)
                times.append(time.perf_counter() - start)
            self._latencies_s[batch] = min(times[1:])
        return self._latencies_s[batch]

    def sizes(self, scenario: str) -> tuple[int, ...]:
        """The batch sizes of a scenario. The Server's largest takes at most half of the latency bound; a backend that stays
        ready for few sizes gets few, and smaller batches are filled up."""
        largest = min(self.max_batch, self.backend.max_batch or self.max_batch)
        if scenario == "single-stream":
            return (1,)
        if scenario == "multi-stream":
            size = min(SAMPLES_PER_QUERY, largest)
            return tuple(sorted({size, SAMPLES_PER_QUERY % size or size}))
        if scenario == "offline":
            return (largest,)
        size = 1
        while size < largest and self.latency_s(min(2 * size, largest)) <= self.options.latency_bound_s / 2:
            size = min(2 * size, largest)
        if self.backend.kept_shapes is None:
            return tuple(range(1, size + 1))
        return tuple(sorted({1, *(math.ceil(size * part / 4) for part in (1, 2, 4))}))[-self.backend.kept_shapes :]

    def _timed(self, scenario: str) -> Figures:
        """SingleStream, MultiStream or Offline; again with more queries where LoadGen had made too few beforehand."""
        sizes = self.sizes(scenario)
        expected = sizes[-1] / self.latency_s(sizes[-1])
        if scenario == "multi-stream":
            expected /= SAMPLES_PER_QUERY
        for margin in (1.2, 2.5, 10.0):
            outcome = self._once(scenario, expected * margin, sizes)
            if outcome.valid or outcome.values["result_min_duration_met"]:
                break
        metrics = scenario_metrics(scenario, outcome, self.options)
        notes = [] if outcome.valid else _hints(scenario, outcome, self.options)
        return Figures(valid=outcome.valid, reason=outcome.reason, metrics=metrics, notes=notes, logs=_timed_logs(outcome))

    def _once(self, scenario: str, queries_per_s: float, sizes: tuple[int, ...], accuracy: bool = False) -> Outcome:
        least, start = self.options.min_duration_s, time.monotonic()
        request = ScenarioRequest(
            scenario=scenario, queries_per_s=queries_per_s, sizes=sizes, min_duration_s=least, accuracy=accuracy,
            max_duration_s=LONGEST * least, min_queries=self.options.queries(scenario),
            latency_bound_s=self.options.latency_bound_s,
        )  # fmt: skip
        rate = f" at {queries_per_s:.4g}/s" if scenario == "server" and not accuracy else ""
        what, total = f"{self.backend.candidate} {scenario}{' accuracy' * accuracy}{rate}", math.ceil(least)

        def tick() -> None:
            self.progress(what, min(total, int(time.monotonic() - start)), total)

        return run_loadgen(self.backend, self.library, request, tick)

    def _server(self) -> Figures:
        options, sizes = self.options, self.sizes("server")
        alone = 1 / self.latency_s(1)
        capacity = self.offline_samples_per_s or sizes[-1] / self.latency_s(sizes[-1])
        floor = max(IDLE * alone, options.queries("server") / (LONGEST * options.min_duration_s))
        search = search_rate(
            lambda rate: self._once("server", rate, sizes), max(floor, 0.7 * capacity), floor=floor,
            tolerance=options.rate_tolerance, latency_bound_s=options.latency_bound_s,
        )  # fmt: skip
        about = {"latency_bound_s": options.latency_bound_s, "max_batch": sizes[-1], "runs": search.runs}
        if search.best is None:
            return self._unmet(search, about, floor)
        rate, outcome = search.best
        metrics = {**scenario_metrics("server", outcome, options), **about, "target_qps": rate}
        notes, logs = [], _timed_logs(outcome)
        if search.above is None:
            notes.append(f"no rate failed in {search.runs} runs: the highest may be above {rate:.4g} queries/s")
        else:
            failed, above = search.above
            metrics |= {"failed_qps": failed, "failed_latency_p99_s": above.values["result_99.00_percentile_latency_ns"] / 1e9}
            notes.append(f"INVALID at {failed:.4g} queries/s: {above.reason}")
            logs |= {f"above.{suffix}": content for suffix, content in _timed_logs(above).items()}
        return Figures(valid=True, reason="", metrics=metrics, notes=notes, logs=logs)

    def _unmet(self, search: Search, about: dict[str, float | int], floor: float) -> Figures:
        """A latency bound that was met at no rate."""
        options, (rate, outcome) = self.options, search.worst()
        bound, fastest = f"{options.latency_bound_s * 1e3:g} ms", outcome.values["result_min_latency_ns"] / 1e6
        longest, notes = LONGEST * options.min_duration_s, _hints("server", outcome, options)
        if hopeless(outcome, options.latency_bound_s):
            reason = f"a latency bound of {bound} cannot be met: the fastest answer took {fastest:.3g} ms"
        else:
            reason = f"a latency bound of {bound} was met at no rate, down to {rate:.4g} queries/s"
            if floor * longest <= options.queries("server") * 1.001:
                notes.append(f"lower rates need more than {longest:g} s for enough queries: raise --min-duration")
        metrics = {**scenario_metrics("server", outcome, options), **about, "target_qps": rate}
        return Figures(
            valid=False, reason=f"{reason} ({outcome.reason})", metrics=metrics, notes=notes, logs=_timed_logs(outcome)
        )

    def _with_accuracy(self, scenario: str, figures: Figures) -> Figures:
        """Top-1 of the answers that LoadGen logged."""
        sizes, labels = self.sizes(scenario), self.library.labels
        assert labels is not None  # asked before the run
        outcome = self._once(scenario, 1 / self.latency_s(1), sizes, accuracy=True)
        right = sum(int(labels[sample]) == answer for sample, answer in outcome.answers.items())
        metrics = {**figures.metrics, "top1_accuracy": right / len(labels), "accuracy_images": len(outcome.answers)}
        logs = {"accuracy.json": outcome.logs["accuracy.json"], "accuracy.detail.txt": outcome.logs["detail.txt"]}
        return replace(figures, metrics=metrics, logs={**figures.logs, **logs})


def scenario_metrics(scenario: str, outcome: Outcome, options: ScenarioOptions) -> dict[str, float | int]:
    """LoadGen's figures with their units; of MultiStream a query's latency."""
    values = outcome.values
    queries = int(values["result_query_count"])
    samples = queries * int(values["generated_samples_per_query"])
    rates = {
        "single-stream": "result_qps_with_loadgen_overhead", "server": "result_completed_samples_per_sec",
        "offline": "result_samples_per_second",
    }  # fmt: skip
    duration_s = outcome.duration_s
    rate = float(values[rates[scenario]]) if scenario in rates else samples / max(duration_s, 1e-3)
    metrics: dict[str, float | int] = {
        "samples_per_s": rate, "queries": queries, "samples": samples, "duration_s": duration_s,
        "min_duration_s": options.min_duration_s,
    }  # fmt: skip
    if scenario == "offline":
        return metrics
    query, kind = ("per_query_", "query_") if scenario == "multi-stream" else ("", "")
    for percent in (50, 90, 99):
        metrics[f"latency_p{percent}_s"] = values[f"result_{percent}.00_percentile_{query}latency_ns"] / 1e9
    for name in ("mean", "min", "max"):
        metrics[f"latency_{name}_s"] = values[f"result_{name}_{kind}latency_ns"] / 1e9
    if scenario == "server":
        metrics["scheduled_samples_per_s"] = float(values["result_scheduled_samples_per_sec"])
        metrics["late_queries"] = int(values["result_overlatency_query_count"])
    # "ss" and "ms" are LoadGen's short names of the two scenarios, not units.
    if estimate := values.get({"single-stream": "early_stopping_latency_ss"}.get(scenario, "early_stopping_latency_ms")):
        metrics["early_stopping_latency_s"] = estimate / 1e9
    return metrics


def _hints(scenario: str, outcome: Outcome, options: ScenarioOptions) -> list[str]:
    """What to do about an INVALID run that latency is not to blame for."""
    values, needed = outcome.values, MIN_QUERIES[scenario]
    few = not (values["early_stopping_met"] and values["result_min_queries_met"])
    if not few or not values.get("result_perf_constraints_met", True):
        return []
    queries, notes = values["result_query_count"], []
    if options.queries(scenario) < needed:
        notes.append(f"leave --min-queries to its default, {needed}")
    if (least := needed * outcome.duration_s / max(queries, 1) / LONGEST) > options.min_duration_s:
        notes.append(f"give --min-duration {math.ceil(least)}s or more")
    return [f"{queries} queries in {outcome.duration_s:.1f} s are too few: {', and '.join(notes) or 'raise --min-duration'}"]


def _timed_logs(outcome: Outcome) -> dict[str, bytes]:
    return {suffix: outcome.logs[suffix] for suffix in ("summary.txt", "detail.txt")}
