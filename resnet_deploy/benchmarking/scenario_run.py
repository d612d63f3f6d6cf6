"""Scenarios of every candidate of a bundle: run where they are missing, kept in the bundle with LoadGen's logs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from typing import Any

from resnet_deploy import _deps
from resnet_deploy.backends.base import Candidate
from resnet_deploy.benchmarking.conditions import watch, watch_with
from resnet_deploy.benchmarking.crashes import SCENARIO, Crashes, Step
from resnet_deploy.benchmarking.ledger import Ledger
from resnet_deploy.benchmarking.library import Library
from resnet_deploy.benchmarking.machine import cores, cpu_name, gpus
from resnet_deploy.benchmarking.report import ScenarioResult
from resnet_deploy.benchmarking.scenarios import SUBMISSION_S, Figures, Runner, ScenarioOptions
from resnet_deploy.bundle.opened import Subject
from resnet_deploy.bundle.store import Bundle, Transaction, key_of, now
from resnet_deploy.data import Dataset
from resnet_deploy.errors import BundleError, DeployError, UsageError
from resnet_deploy.specs import HeadKind, Progress, silent
from resnet_deploy.steps import Verdict

SECTION = "scenarios"  # of the manifest
_CLASSES = {HeadKind.LOGITS.value, HeadKind.PROBABILITIES.value, HeadKind.TOPK.value}


class ScenarioRun:
    """LoadGen's scenarios over a bundle's candidates and one dataset. max_batch: the largest batch of any inference.

    Raises MissingPackageError without LoadGen, UsageError where accuracy is asked for and there is none to be had.
    """

    def __init__(
        self,
        subject: Subject,
        dataset: Dataset,
        options: ScenarioOptions,
        *,
        max_batch: int,
        threads: int,
        fresh: bool = False,
        progress: Progress = silent,
        ledger: Ledger | None = None,
        spin_wait: bool = True,
        crashes: Crashes | None = None,
    ) -> None:
        if options.judged:
            _deps.require("mlperf_loadgen", extra="loadgen")
        kind = subject.description["head"]["kind"]
        if options.accuracy and (dataset.labels is None or kind not in _CLASSES):
            lacking = f"{dataset.source} has no labels" if dataset.labels is None else f"the head {kind} names no class"
            raise UsageError(f"--accuracy needs labelled images and a head of classes; {lacking}")
        self.subject, self.dataset, self.options = subject, dataset, options
        self.max_batch, self.threads, self.fresh, self.progress = max_batch, threads, fresh, progress
        self.spin_wait, self.crashes = spin_wait, crashes or Crashes()
        self.ledger = ledger or Ledger(subject.bundle)
        self.found: dict[Candidate, dict[str, dict[str, Any]]] = {}

    @cached_property
    def library(self) -> Library:
        """The images, read when the first run needs them."""
        return Library(self.dataset, seen=self.subject.seen(), everything=self.options.accuracy)

    @property
    def warnings(self) -> list[str]:
        """What the figures are not."""
        least = self.options.min_duration_s
        if not self.options.judged or least >= SUBMISSION_S:
            return []
        return [f"LoadGen's runs last {least:g} s; MLPerf's take {SUBMISSION_S:g} s: this is not a submission length"]

    def run(self, candidate: Candidate) -> None:
        """Run a candidate's scenarios into `found`. Each is kept in the bundle as soon as it is made; one of a backend that
        fails has an `error`, is not kept, and what was to come after it has none either."""
        bundle, order = self.subject.bundle, sorted(self.options.judged, key=lambda name: name == "server")
        keys = {scenario: self._key(candidate, scenario) for scenario in order}
        known = {} if self.fresh else {name: entry for name, key in keys.items() if (entry := _known(bundle, key)) is not None}
        missing = [scenario for scenario in order if scenario not in known]
        if known:
            self.found[candidate] = known
        for scenario in [name for name in missing if self._step(candidate, name) in self.crashes.known]:
            words = self.crashes.known[self._step(candidate, scenario)]
            failed = self._record(candidate, scenario, Figures(valid=False, reason=words, metrics={}), {})
            self.found.setdefault(candidate, {})[scenario] = {**failed, "error": words}
            missing.remove(scenario)
        library = self.library if missing else None
        for scenario, record, logs in self._run(candidate, missing, library, known.get("offline")):
            if "error" not in record:
                record["log_files"] = _keep(self.ledger, keys[scenario], record, logs)
            self.found.setdefault(candidate, {})[scenario] = record

    def results(self, judged: dict[Candidate, Verdict]) -> list[ScenarioResult]:
        """What was found, candidate by candidate, in the order that was asked for. judged: on each candidate's answers."""
        return [
            _result(candidate, scenario, records[scenario], judged[candidate])
            for candidate, records in self.found.items()
            for scenario in self.options.judged
            if scenario in records
        ]

    def _run(
        self, candidate: Candidate, scenarios: list[str], library: Library | None, offline: dict[str, Any] | None
    ) -> Iterator[tuple[str, dict[str, Any], dict[str, bytes]]]:
        left, runtime = list(scenarios), {}
        if library is None:
            return
        try:
            first = self.crashes.at(self._step(candidate, scenarios[0]))
            with first, self.subject.backend(candidate, self.threads) as backend:
                backend.spin_wait = self.spin_wait
                runtime = backend.describe()
                runner = Runner(
                    backend=backend, library=library, options=self.options, max_batch=self.max_batch, progress=self.progress,
                    offline_samples_per_s=None if offline is None else offline["metrics"]["samples_per_s"],
                )  # fmt: skip
                for scenario in scenarios:
                    watching = watch() if candidate.device == "cuda" else watch_with(None)
                    with self.crashes.at(self._step(candidate, scenario)), watching as seen:
                        figures = runner.run(scenario)
                    left.remove(scenario)
                    record = self._record(candidate, scenario, figures, runtime)
                    yield scenario, {**record, "conditions": seen.to_dict()}, figures.logs
        except Exception as exc:  # a runtime's own error can be of any kind, and other backends are to be measured
            error = str(exc) if isinstance(exc, DeployError) else f"{type(exc).__name__}: {exc}"
            for number, scenario in enumerate(left):
                said = error if number == 0 else f"not run, since {left[0]} failed"
                failed = Figures(valid=False, reason=said, metrics={})
                yield scenario, {**self._record(candidate, scenario, failed, runtime), "error": said}, {}

    def _step(self, candidate: Candidate, scenario: str) -> Step:
        return Step(candidate=str(candidate), kind=SCENARIO, scenario=scenario)

    def _record(self, candidate: Candidate, scenario: str, figures: Figures, runtime: dict[str, Any]) -> dict[str, Any]:
        held = self.library.capacity
        limited = [f"timed on {held} images, the most that are held in memory"] if self.library.limited else []
        return {
            "candidate": str(candidate), "scenario": scenario, "valid": figures.valid, "reason": figures.reason,
            "notes": [*figures.notes, *(limited if figures.metrics else [])], "metrics": figures.metrics, "log_files": [],
            "threads": self.threads, "runtime": runtime, "measured": now(),
        }  # fmt: skip

    def _key(self, candidate: Candidate, scenario: str) -> str:
        return key_of(
            candidate=str(candidate), made_from=self.subject.made_from(candidate), scenario=scenario,
            options=self.options.key(scenario), data=self.dataset.sha256, excluded=self.subject.seen_key(),
            max_batch=self.max_batch, threads=self.threads, cpu=cpu_name(), cores=cores(),
            gpus=gpus(needed=True) if candidate.device == "cuda" else [], packages=_deps.versions(),
            **({"spin_wait": False} if candidate.device == "cuda" and not self.spin_wait else {}),
        )  # fmt: skip


def _result(candidate: Candidate, scenario: str, record: dict[str, Any], judged: Verdict) -> ScenarioResult:
    """A record with the verdict on its candidate's answers."""
    return ScenarioResult(
        backend=candidate.name, device=candidate.device, precision=candidate.precision.value, scenario=scenario,
        valid=record["valid"], reason=record["reason"], error=record.get("error"), notes=record["notes"],
        metrics=record["metrics"], log_files=record["log_files"], parity=judged.report.to_dict(),
        parity_data=judged.data["source"], gate=judged.gate, failures=judged.failures, threads=record["threads"],
        runtime=record["runtime"], measured=record["measured"], conditions=record.get("conditions"),
    )  # fmt: skip


def _known(bundle: Bundle, key: str) -> dict[str, Any] | None:
    """A record whose logs are all as they were."""
    record = bundle.manifest.get(SECTION, {}).get(key)
    try:
        for name in record["log_files"] if record else ():
            bundle.artifact(name)
    except BundleError:
        return None
    return None if record is None else dict(record)


def _keep(ledger: Ledger, key: str, record: dict[str, Any], logs: dict[str, bytes]) -> list[str]:
    """Record a scenario in place of the candidate's last one, with its logs; returns the names of those that were kept."""
    slug = re.sub(r"[^\w.=-]+", "-", record["candidate"])
    prefix = f"loadgen.{slug}.{record['scenario']}."
    names = [prefix + suffix for suffix in logs]

    def write(change: Transaction) -> None:
        artifacts, kept = change.manifest["artifacts"], change.manifest.get(SECTION, {})
        for name in [name for name in artifacts if name.startswith(prefix)]:
            del artifacts[name]
        for name, content in zip(names, logs.values(), strict=True):
            change.stage(name).write_bytes(content)
            change.add(name, kind="loadgen_log", key=key)
        same = (record["candidate"], record["scenario"])
        change.manifest[SECTION] = {
            one: entry for one, entry in kept.items() if (entry["candidate"], entry["scenario"]) != same
        }

    return names if ledger.keep(SECTION, {key: {**record, "log_files": names}}, write) else []
