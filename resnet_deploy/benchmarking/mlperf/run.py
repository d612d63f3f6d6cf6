"""Scenarios of every candidate of a bundle: run where they are missing, kept in the bundle with LoadGen's logs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from resnet_deploy import _deps
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.benchmarking.crashes import SCENARIO, Crashes, Step
from resnet_deploy.benchmarking.mlperf.samples import Library
from resnet_deploy.benchmarking.mlperf.scenarios import SUBMISSION_S, Figures, Runner, ScenarioOptions
from resnet_deploy.benchmarking.report import ScenarioResult
from resnet_deploy.bundle.codec import key_of, now
from resnet_deploy.bundle.manifest import LoadGenLog, Manifest
from resnet_deploy.bundle.names import loadgen_prefix
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.bundle.records import ScenarioRecord
from resnet_deploy.bundle.results import ResultStore, environment
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.bundle.transaction import Transaction
from resnet_deploy.data.dataset import Dataset
from resnet_deploy.errors import BundleError, DeployError, UsageError
from resnet_deploy.pipeline.verify import Verdict
from resnet_deploy.specs import HeadKind, Progress, silent
from resnet_deploy.timing.conditions import watch, watch_with

_CLASSES = {HeadKind.LOGITS.value, HeadKind.PROBABILITIES.value, HeadKind.TOPK.value}


class ScenarioRun:
    """LoadGen's scenarios over a bundle's candidates and one dataset.

    Args:
        opened: the bundle.
        dataset: its images, with labels where accuracy is asked for.
        options: which scenarios, and how.
        max_batch: the largest batch of any inference.
        threads: of the CPU.
        fresh: run again what the bundle has.
        progress: told what is being done.
        store: where results are kept.
        spin_wait: wait for a GPU by polling it.
        crashes: candidates that took an earlier process with them, which are left out.

    Raises:
        MissingPackageError: LoadGen is not installed.
        UsageError: accuracy is asked for and there is none to be had.
    """

    def __init__(
        self,
        opened: OpenedBundle,
        dataset: Dataset,
        options: ScenarioOptions,
        *,
        max_batch: int,
        threads: int,
        fresh: bool = False,
        progress: Progress = silent,
        store: ResultStore | None = None,
        spin_wait: bool = True,
        crashes: Crashes | None = None,
    ) -> None:
        if options.judged:
            _deps.require("mlperf_loadgen", extra="loadgen")
        kind = opened.description.head.kind.value
        if options.accuracy and (dataset.labels is None or kind not in _CLASSES):
            lacking = f"{dataset.source} has no labels" if dataset.labels is None else f"the head {kind} names no class"
            raise UsageError(f"--accuracy needs labelled images and a head of classes; {lacking}")
        self.opened, self.dataset, self.options = opened, dataset, options
        self.max_batch, self.threads, self.fresh, self.progress = max_batch, threads, fresh, progress
        self.spin_wait, self.crashes = spin_wait, crashes or Crashes()
        self.store = store or ResultStore(opened.bundle)
        self.records: dict[Candidate, dict[str, ScenarioRecord]] = {}
        self._libraries: dict[frozenset[str], Library] = {}

    def library(self, candidate: Candidate) -> Library:
        """The images that a candidate has not seen, read when the first run needs them."""
        seen = self.opened.seen(candidate)
        if seen not in self._libraries:
            self._libraries[seen] = Library(self.dataset, seen=seen, everything=self.options.accuracy)
        return self._libraries[seen]

    @property
    def warnings(self) -> list[str]:
        """What the figures are not."""
        least = self.options.min_duration_s
        if not self.options.judged or least >= SUBMISSION_S:
            return []
        return [f"LoadGen's runs last {least:g} s; MLPerf's take {SUBMISSION_S:g} s: this is not a submission length"]

    def run(self, candidate: Candidate) -> None:
        """Run a candidate's scenarios into `records`. Each is kept in the bundle as soon as it is made; one of a backend that
        fails has an `error`, is not kept, and what was to come after it has none either."""
        bundle, order = self.opened.bundle, sorted(self.options.judged, key=lambda name: name == "server")
        keys = {scenario: self._key(candidate, scenario) for scenario in order}
        known = {} if self.fresh else {name: entry for name, key in keys.items() if (entry := _known(bundle, key)) is not None}
        missing = [scenario for scenario in order if scenario not in known]
        if known:
            self.records[candidate] = known
        for scenario in [name for name in missing if self._step(candidate, name) in self.crashes.known]:
            words = self.crashes.known[self._step(candidate, scenario)]
            failed = Figures(valid=False, reason=words, metrics={})
            self.records.setdefault(candidate, {})[scenario] = self._record(candidate, None, scenario, failed, {}, error=words)
            missing.remove(scenario)
        if not missing:
            return
        for scenario, record, logs in self._run(candidate, missing, self.library(candidate), known.get("offline")):
            if record.error is None:
                record = _keep(self.store, keys[scenario], record, logs)
            self.records.setdefault(candidate, {})[scenario] = record

    def results(self, judged: dict[Candidate, Verdict]) -> list[ScenarioResult]:
        """What was found, candidate by candidate, in the order that was asked for. judged: on each candidate's answers."""
        return [
            _result(candidate, scenario, records[scenario], judged[candidate])
            for candidate, records in self.records.items()
            for scenario in self.options.judged
            if scenario in records
        ]

    def _run(
        self, candidate: Candidate, scenarios: list[str], library: Library, offline: ScenarioRecord | None
    ) -> Iterator[tuple[str, ScenarioRecord, dict[str, bytes]]]:
        left, runtime = list(scenarios), {}
        try:
            first = self.crashes.at(self._step(candidate, scenarios[0]))
            with first, self.opened.backend(candidate, self.threads) as backend:
                backend.spin_wait = self.spin_wait
                runtime = backend.describe()
                runner = Runner(
                    backend=backend, library=library, options=self.options, max_batch=self.max_batch, progress=self.progress,
                    offline_samples_per_s=None if offline is None else offline.metrics["samples_per_s"],
                )  # fmt: skip
                for scenario in scenarios:
                    watching = watch() if candidate.device == "cuda" else watch_with(None)
                    with self.crashes.at(self._step(candidate, scenario)), watching as seen:
                        figures = runner.run(scenario)
                    left.remove(scenario)
                    record = self._record(candidate, library, scenario, figures, runtime)
                    yield scenario, msgspec.structs.replace(record, conditions=seen.to_dict()), figures.logs
        except Exception as exc:  # a runtime's own error can be of any kind, and other backends are to be measured
            error = str(exc) if isinstance(exc, DeployError) else f"{type(exc).__name__}: {exc}"
            for number, scenario in enumerate(left):
                reason = error if number == 0 else f"not run, since {left[0]} failed"
                failed = Figures(valid=False, reason=reason, metrics={})
                yield scenario, self._record(candidate, library, scenario, failed, runtime, error=reason), {}

    def _step(self, candidate: Candidate, scenario: str) -> Step:
        return Step(candidate=str(candidate), kind=SCENARIO, scenario=scenario)

    def _record(
        self,
        candidate: Candidate,
        library: Library | None,
        scenario: str,
        figures: Figures,
        runtime: dict[str, Any],
        **about: Any,
    ) -> ScenarioRecord:
        notes = []
        if library is not None and library.limited and figures.metrics:
            notes = [f"timed on {library.capacity} images, the most that are held in memory"]
        return ScenarioRecord(
            candidate=str(candidate), made_from=self.opened.made_from(candidate), scenario=scenario,  # type: ignore[arg-type]
            valid=figures.valid, reason=figures.reason, notes=(*figures.notes, *notes), metrics=figures.metrics, log_files=(),
            threads=self.threads, runtime=runtime, measured=now(), **about,
        )  # fmt: skip

    def _key(self, candidate: Candidate, scenario: str) -> str:
        use = self.opened.calibration_of(candidate)
        return key_of(
            candidate=str(candidate), made_from=self.opened.made_from(candidate), scenario=scenario,
            options=self.options.scenario_key(scenario), data=self.dataset.sha256, excluded=use and use.key,
            max_batch=self.max_batch, threads=self.threads, **environment(candidate.device),
            **({"spin_wait": False} if candidate.device == "cuda" and not self.spin_wait else {}),
        )  # fmt: skip


def _result(candidate: Candidate, scenario: str, record: ScenarioRecord, judged: Verdict) -> ScenarioResult:
    """A record with the verdict on its candidate's answers."""
    return ScenarioResult(
        backend=candidate.name, device=candidate.device, precision=candidate.precision.value, scenario=scenario,
        valid=record.valid, reason=record.reason, error=record.error, notes=list(record.notes), metrics=record.metrics,
        log_files=list(record.log_files), parity=judged.report.to_dict(), parity_data=judged.data.source, gate=judged.gate,
        failures=judged.failures, threads=record.threads, runtime=record.runtime, measured=record.measured,
        conditions=record.conditions, judged_on=judged.data.judged_on,
    )  # fmt: skip


def _known(bundle: Bundle, key: str) -> ScenarioRecord | None:
    """A record whose logs are all as they were."""
    record = bundle.manifest.scenarios.get(key)
    try:
        for name in record.log_files if record is not None else ():
            bundle.artifact(name)
    except BundleError:
        return None
    return record


def _keep(store: ResultStore, key: str, record: ScenarioRecord, logs: dict[str, bytes]) -> ScenarioRecord:
    """Record a scenario in place of the candidate's last one, with its logs; returns it with the names of those that were
    kept."""
    prefix = loadgen_prefix(record.candidate, record.scenario)
    logged = msgspec.structs.replace(record, log_files=tuple(prefix + suffix for suffix in logs))

    def without(manifest: Manifest) -> Manifest:
        """The manifest without the candidate's last record of the scenario and its logs."""
        artifacts = {name: entry for name, entry in manifest.artifacts.items() if not name.startswith(prefix)}
        same = (record.candidate, record.scenario)
        kept = {name: entry for name, entry in manifest.scenarios.items() if (entry.candidate, entry.scenario) != same}
        return msgspec.structs.replace(manifest, artifacts=artifacts, scenarios=kept)

    def write(change: Transaction) -> None:
        change.update(without)
        for suffix, content in logs.items():
            change.write(prefix + suffix, content)
            change.add(prefix + suffix, LoadGenLog, key=key)

    return logged if store.keep("scenarios", {key: logged}, write) else record
