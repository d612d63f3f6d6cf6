"""The main job: whatever is missing of export and verification, then the measurement, then the report."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_deploy import _deps
from resnet_deploy.backends.base import BACKENDS, PLANS, Backend, Candidate
from resnet_deploy.benchmarking.machine import cores, cpu_name, describe_machine, gpus
from resnet_deploy.benchmarking.measure import MeasureConfig, Measurement, measure
from resnet_deploy.benchmarking.report import BenchReport, Latency, Result, ScenarioResult, record, warnings_for
from resnet_deploy.benchmarking.scenario_run import ScenarioRun
from resnet_deploy.benchmarking.scenarios import SWEEP, ScenarioOptions
from resnet_deploy.building import ensure_plan
from resnet_deploy.bundle import Bundle, key_of, now
from resnet_deploy.data import Dataset
from resnet_deploy.errors import UsageError
from resnet_deploy.lowering import LoweringOptions, lower_missing
from resnet_deploy.models import registry
from resnet_deploy.parity import parse_gates
from resnet_deploy.reporting.writing import check_path, publish
from resnet_deploy.specs import MAX_BATCH, Precision, Progress, parse_batches, silent
from resnet_deploy.steps import REFERENCE, compare, export, parity_key, verdict
from resnet_deploy.subject import Subject

DEFAULT_BACKENDS = ("eager", "onnxruntime")
DEFAULT_BATCHES = (1, 8, 32)
RANDOM_IMAGES = 32
SAMPLES = "samples.json"


def bench(
    target: Bundle | str | Path,
    *,
    output: str | Path | None = None,
    data: str | Path | None = None,
    batch: str | int | Iterable[int] | None = None,
    backends: Iterable[str] = DEFAULT_BACKENDS,
    gates: Iterable[str] = (),
    duration_s: float = MeasureConfig.duration_s,
    limit: int | None = None,
    strict: bool = False,
    threads: int | None = None,
    fresh: bool = False,
    overwrite: bool = False,
    report: str | Path | None = None,
    progress: Progress = silent,
    **options: Any,
) -> BenchReport:
    """Measure a bundle, or an architecture that is exported first where it is not yet.

    output: the architecture's bundle, by default build/ARCH. data: as in `verify`; random pixels without. batch: 1, 8 and
    32 where the bundle proves them. duration_s: of sampling, for each candidate and batch. fresh: measure again what was
    measured before. report: a file for the report, .html, .md or .json; the bundle keeps its last run in any case. options:
    the fields of `ScenarioOptions`, and of `export`; with precision, backends that run files are measured in each. Parity
    and measurements that the manifest has, of the same files, data, versions, machine and settings, are reused.
    """
    if report is not None:
        check_path(report)
    asked, batches = parse_gates(gates), parse_batches(DEFAULT_BATCHES if batch is None else batch)
    scenarios, options = ScenarioOptions.split(options)
    precisions, _ = LoweringOptions.split(options)
    candidates = _candidates(backends, precisions)
    config = MeasureConfig(duration_s=duration_s)
    bundle = _bundle(target, output, batches, overwrite, progress, options)
    subject = Subject(bundle)
    if batch is None:
        batches = tuple(size for size in batches if size <= subject.max_batch)
    if max(batches) > subject.max_batch:
        raise UsageError(
            f"the graph is proven up to batch {subject.max_batch}, not {max(batches)}; "
            f"export it with --max-batch {max(batches)}"
        )
    for candidate in candidates:
        if candidate.backend in PLANS:
            ensure_plan(subject, candidate, {*batches, min(MAX_BATCH, subject.max_batch)}, progress)
    threads = threads or cores()
    dataset = subject.data(data or f"random:{RANDOM_IMAGES}", limit=limit, strict=strict)
    largest = subject.max_batch if batch is None else max(batches)
    judged = ScenarioRun(subject, dataset, scenarios, max_batch=largest, threads=threads, fresh=fresh, progress=progress)
    parity = _parity(subject, candidates, dataset, threads, fresh, progress)
    batches = batches if SWEEP in scenarios.scenario else ()
    timings = _timings(subject, candidates, batches, dataset, config, threads, fresh, progress)
    results = [
        _result(candidate, size, timings, bundle.manifest["parity"][parity[candidate]], asked)
        for size in batches
        for candidate in candidates
    ]
    played = _played(judged, candidates, parity, asked)
    skipped = _skipped(bundle.manifest["parity"][parity[candidates[0]]])
    warnings = warnings_for(results, subject.description) + judged.warnings + skipped
    found = BenchReport(
        machine=describe_machine(), model=subject.description, results=results, warnings=warnings, scenarios=played
    )
    publish(bundle, found.to_dict(), report)
    return found


def _skipped(parity: dict[str, Any]) -> list[str]:
    skipped = parity["data"]["skipped"]
    return [f"{len(skipped)} images were skipped: {skipped[0]['name']} ({skipped[0]['reason']}), ..."] if skipped else []


def _candidates(backends: Iterable[str], options: LoweringOptions) -> list[Candidate]:
    """What is measured: backends as they are, and those that run files in every precision that is asked for."""
    found: dict[Candidate, None] = {}
    for text in backends:
        candidate = Candidate.parse(text)
        known = BACKENDS[candidate.backend]
        plain = candidate.precision is Precision.FP32 and candidate.backend != "eager"
        wanted = [p for p in options.precisions if p.value in known] if plain else [candidate.precision]
        found |= dict.fromkeys(replace(candidate, precision=precision) for precision in wanted)
    if not found:
        raise UsageError("there is no backend to measure")
    return list(found)


def _bundle(
    target: Bundle | str | Path,
    output: Any,
    batches: tuple[int, ...],
    overwrite: bool,
    progress: Progress,
    options: Any,
) -> Bundle:
    if isinstance(target, Bundle):
        return target
    if str(target) in registry.ARCHITECTURES or not Path(target).is_dir():
        folder = re.sub(r"[^\w.=-]+", "-", str(target))
        options.setdefault("max_batch", max(MAX_BATCH, *batches))
        return export(str(target), output or Path("build") / folder, overwrite=overwrite, progress=progress, **options)
    precisions, options = LoweringOptions.split(options)
    if given := [name for name, value in options.items() if value not in (None, False)]:
        raise UsageError(f"{target} is exported already; {', '.join(given)} can be set only where an architecture is given")
    bundle = Bundle.open(target)
    lower_missing(bundle, precisions, progress)
    return bundle


def _parity(
    subject: Subject, candidates: list[Candidate], dataset: Dataset, threads: int, fresh: bool, progress: Progress
) -> dict[Candidate, str]:
    """Keys of every candidate's parity record, after making those that are missing."""
    keys = {candidate: parity_key(subject, candidate, dataset) for candidate in candidates}
    known = subject.bundle.manifest["parity"]
    missing = [candidate for candidate, key in keys.items() if fresh or key not in known]
    if missing:
        batch = min(MAX_BATCH, subject.max_batch)
        records = compare(subject, missing, dataset, batch=batch, threads=threads, progress=progress)
        subject.bundle.record("parity", records)
    return keys


def _played(
    run: ScenarioRun, candidates: list[Candidate], parity: dict[Candidate, str], asked: dict[str, float]
) -> list[ScenarioResult]:
    """LoadGen's scenarios, candidate by candidate."""
    known = run.subject.bundle.manifest["parity"]
    return [
        run.result(candidate, scenario, record, verdict(candidate, known[parity[candidate]], asked))
        for candidate in candidates
        for scenario, record in run.records(candidate).items()
    ]


def _timings(
    subject: Subject,
    candidates: list[Candidate],
    batches: tuple[int, ...],
    dataset: Dataset,
    config: MeasureConfig,
    threads: int,
    fresh: bool,
    progress: Progress,
) -> dict[tuple[Candidate, int], dict[str, Any]]:
    """Measurement records of every candidate and batch; each batch size is recorded as soon as it is done."""
    found: dict[tuple[Candidate, int], dict[str, Any]] = {}
    known = subject.bundle.manifest["measurements"]
    keys = {(c, size): _timing_key(subject, c, size, config, threads) for c in candidates for size in batches}
    missing = {pair for pair, key in keys.items() if fresh or key not in known}
    with ExitStack() as stack:
        loaded: dict[Candidate, Backend] = {}
        for size in batches:
            wanted = [candidate for candidate in candidates if (candidate, size) in missing]
            for candidate in wanted:
                if candidate not in loaded:
                    loaded[candidate] = stack.enter_context(subject.backend(candidate, threads))
            if wanted:
                images = _images(dataset, size)
                measured = measure(
                    {str(c): loaded[c] for c in wanted}, {str(c): images for c in wanted}, config,
                    lambda done, total, size=size: progress(f"measure batch {size}", done, total),  # type: ignore[misc]
                )  # fmt: skip
                entries = {keys[c, size]: (measured[str(c)], loaded[c].describe()) for c in wanted}
                _keep(subject.bundle, entries, threads)
            for candidate in candidates:
                found[candidate, size] = subject.bundle.manifest["measurements"][keys[candidate, size]]
    return found


def _timing_key(subject: Subject, candidate: Candidate, batch: int, config: MeasureConfig, threads: int) -> str:
    return key_of(
        candidate=str(candidate), made_from=subject.made_from(candidate), batch=batch, duration_s=config.duration_s,
        threads=threads, cpu=cpu_name(), cores=cores(), gpus=gpus() if candidate.device == "cuda" else [],
        packages=_deps.versions(),
    )  # fmt: skip


def _images(dataset: Dataset, batch: int) -> NDArray[Any]:
    """The first `batch` images, repeated where there are fewer: what they show does not change the time."""
    first = next(dataset.batches(batch)).images
    return np.ascontiguousarray(np.stack(list(itertools.islice(itertools.cycle(first), batch))))


def _keep(bundle: Bundle, measured: dict[str, tuple[Measurement, dict[str, Any]]], threads: int) -> None:
    """Record measurements, and their raw samples in samples.json."""
    samples: dict[str, Any] = {}
    if SAMPLES in bundle.manifest["artifacts"]:
        samples = json.loads(bundle.artifact(SAMPLES).read_bytes())
    for key, (measurement, _) in measured.items():
        samples[key] = {"host_s": measurement.host.values_s, "device_s": measurement.device.values_s}
    with bundle.transaction() as change:
        change.stage(SAMPLES).write_text(json.dumps(samples))
        change.add(SAMPLES, kind="samples")
        change.manifest["measurements"] |= {
            key: record(measurement, batch=measurement.batch, threads=threads, runtime=runtime, measured=now())
            for key, (measurement, runtime) in measured.items()
        }


def _result(
    candidate: Candidate,
    batch: int,
    timings: dict[tuple[Candidate, int], dict[str, Any]],
    parity: dict[str, Any],
    asked: dict[str, float],
) -> Result:
    timing = timings[candidate, batch]
    base = timings.get((REFERENCE, batch))
    judged = verdict(candidate, parity, asked)
    return Result(
        backend=candidate.name, device=candidate.device, precision=candidate.precision.value, batch=batch,
        latency_s=Latency(**timing["latency_s"]), device_latency_s=Latency(**timing["device_latency_s"]),
        images_per_s=timing["images_per_s"],
        speedup=None if base is None else base["latency_s"]["p50"] / timing["latency_s"]["p50"],
        samples=timing["samples"], noisy=timing["noisy"], warm=timing["warm"], parity=judged.report.to_dict(),
        parity_data=parity["data"]["source"], gate=judged.gate, failures=judged.failures, threads=timing["threads"],
        runtime=timing["runtime"], measured=timing["measured"],
    )  # fmt: skip
