"""The main job: whatever is missing of export and verification, then the measurement, then the report."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

from resnet_deploy import _json
from resnet_deploy._arguments import takes
from resnet_deploy._deprecated import renamed
from resnet_deploy._machine import cores, describe_machine
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.benchmarking.advice import advise
from resnet_deploy.benchmarking.crashes import Crashes
from resnet_deploy.benchmarking.decision import decide
from resnet_deploy.benchmarking.failures import BackendFailures
from resnet_deploy.benchmarking.layers.details import DetailOptions, Measured
from resnet_deploy.benchmarking.mlperf.run import ScenarioRun
from resnet_deploy.benchmarking.mlperf.scenarios import SWEEP, ScenarioOptions
from resnet_deploy.benchmarking.report import BenchReport, Result
from resnet_deploy.benchmarking.results import result_rows, unmeasured
from resnet_deploy.benchmarking.roofline.ceilings import Ceilings
from resnet_deploy.benchmarking.settings import MeasureOptions
from resnet_deploy.benchmarking.sweep import Timings, images_of
from resnet_deploy.benchmarking.warnings import warnings_for
from resnet_deploy.bundle.disk import has_manifest
from resnet_deploy.bundle.names import WEIGHTS
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.bundle.results import ResultStore
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.data.dataset import Dataset
from resnet_deploy.data.sources import MAX_RANDOM
from resnet_deploy.errors import UsageError, carrying
from resnet_deploy.limits import check_all
from resnet_deploy.models import registry
from resnet_deploy.parity.gates import parse_gates
from resnet_deploy.pipeline.build import ensure_plan
from resnet_deploy.pipeline.candidates import candidates_of, choose_candidates
from resnet_deploy.pipeline.compare_answers import compare_answers, unseen
from resnet_deploy.pipeline.export import ExportOptions, export
from resnet_deploy.pipeline.lowering_options import LoweringOptions
from resnet_deploy.pipeline.restore import restore
from resnet_deploy.pipeline.verify import Verdict, judge_record, parity_key
from resnet_deploy.reporting.writing import check_path, publish
from resnet_deploy.specs import MAX_BATCH, Progress, parse_batches, silent
from resnet_deploy.timing.measure import MeasureConfig

DEFAULT_BATCHES = (1, 8, 32)
IMAGES = 32  # random ones, where no data is given


@dataclass(frozen=True)
class BenchArguments(MeasureOptions, ScenarioOptions, DetailOptions, ExportOptions, LoweringOptions):
    """The arguments of `bench`, which describes them."""

    model: Bundle | str | Path
    _: KW_ONLY
    output: str | Path | None = None
    data: str | Path | None = None
    batch: str | int | Iterable[int] | None = None
    backend: str | Iterable[str] | None = None
    gate: str | Iterable[str] = ()
    duration: float = MeasureConfig.duration_s
    limit: int | None = None
    strict: bool = False
    threads: int | None = None
    fresh: bool = False
    overwrite: bool = False
    report: str | Path | None = None
    progress: Progress = silent
    crashes: Crashes | None = None

    def __post_init__(self) -> None:
        check_all(duration=self.duration, limit=self.limit, threads=self.threads)
        if self.report is not None:
            check_path(self.report)
        super().__post_init__()


@renamed(
    target="model",
    backends="backend",
    gates="gate",
    targets="int8_target",
    duration_s="duration",
    latency_bound_s="latency_bound",
    min_duration_s="min_duration",
)
@takes(BenchArguments)
def bench(call: BenchArguments) -> BenchReport:
    """Measure a bundle, or an architecture that is exported first where it is not yet.

    Parity, measurements and profiles that the bundle has, of the same files, data, versions, machine and settings, are reused.
    A backend that dies is among the report's `unmeasured`, and the others are measured; its error is raised where nothing is
    left. Ctrl-C ends the measurement, and the report has what was done by then. Without `precision`, backends that run files
    are measured in every precision that the bundle holds.

    Args:
        model: a bundle, its folder, or the name of an architecture.
        output: the architecture's bundle, by default build/ARCH.
        data: images, as in `verify`; random pixels without, never those of a calibration.
        batch: batch sizes; by default those of 1, 8 and 32 that the bundle was exported for.
        backend: what is measured, one or several, as in `onnxruntime:int8`; by default every backend of this machine that
            runs a file of the bundle.
        gate: one condition on the answers or several, as in `top1-agreement=0.99`, each takes the
            place of the default of its own metric.
        duration: seconds of sampling, for each candidate and batch.
        limit: so many images, evenly spaced.
        strict: fail at the first image that cannot be read.
        threads: CPU threads of each backend; all cores without.
        fresh: measure again what was measured before.
        overwrite: make the bundle new, whatever the folder's bundle holds.
        report: a file for the report, .html, .md or .json; the bundle keeps its last run in any case.
        progress: told what is being done.
        crashes: what is left out, since it took an earlier process with it, and who is told what this one is at:
            `resnet-deploy bench` measures in a second process, and starts another where that dies.

    `target`, `backends`, `gates`, `duration_s`, `latency_bound_s`, `min_duration_s` and `targets` are old names of `model`,
    `backend`, `gate`, `duration`, `latency_bound`, `min_duration` and `int8_target`; they warn, and will go.

    Returns:
        The report.

    Raises:
        UsageError, DataError, BundleError: what cannot be meant or read.
        BackendError: every backend died.
    """
    progress, fresh = call.progress, call.fresh
    limits, batches = parse_gates(call.gate), parse_batches(DEFAULT_BATCHES if call.batch is None else call.batch)
    scenarios, running, details = call.part(ScenarioOptions), call.part(MeasureOptions), call.part(DetailOptions)
    named = None if call.backend is None else candidates_of(call.backend, call.precisions, running.applied)
    tools = {} if named is None else details.tools(named)  # what is missing is said before anything is made
    config = running.config(call.duration)
    opened = OpenedBundle(_bundle(call, batches))
    if call.batch is None:
        batches = tuple(size for size in batches if size <= opened.max_batch)
    _check_batches(opened, batches)
    kinds = call.precisions if "precision" in call.explicit else None
    candidates = choose_candidates(opened.bundle, call.backend, kinds, running.applied)
    tools = tools or details.tools(candidates)
    restore(opened.bundle, [WEIGHTS, *(candidate.artifact for candidate in candidates)], progress)
    job = _Job(opened, candidates, call.threads or cores(), fresh, progress, call.crashes)
    others = set(scenarios.scenario) - {SWEEP}  # LoadGen's scenarios choose batch sizes as they go
    job.build({*batches, opened.max_batch} if others and call.batch is None else {*batches}, smaller=bool(others))
    dataset = opened.data(call.data or random_unseen(opened, candidates), limit=call.limit, strict=call.strict)
    job.warnings += [unnamed] if (unnamed := opened.keep_names(dataset)) is not None else []
    largest = opened.max_batch if call.batch is None else max(batches)
    scenario_run = ScenarioRun(
        opened, dataset, scenarios, max_batch=largest, threads=job.threads, fresh=fresh, progress=progress,
        store=job.store, spin_wait=running.spin_wait, crashes=job.failed.crashes,
    )  # fmt: skip
    job.judge(dataset, limits)
    timings = Timings(
        opened, dataset, config, running, store=job.store, failed=job.failed, threads=job.threads, fresh=fresh,
        progress=progress,
    )  # fmt: skip
    bench_report = job.measure(timings, batches if SWEEP in scenarios.scenario else (), scenario_run, running)
    if not bench_report.interrupted:
        measured = Measured(opened, [*job.judged], batches, call.duration, job.threads, fresh, progress, job.failed.crashes)
        bench_report = details.added(bench_report, measured, tools, lambda size: images_of(dataset, size))
    with carrying(bench_report):
        publish(opened.bundle, bench_report.to_dict(), call.report)
    return bench_report


def random_unseen(opened: OpenedBundle, candidates: Iterable[Candidate]) -> str:
    """Random images that no candidate was calibrated on, from the highest seeds down: calibrations begin with the lowest."""
    seen = frozenset[str]().union(*(opened.seen(candidate) for candidate in candidates))
    for first in range(MAX_RANDOM, 0, -IMAGES):
        source = f"random:{IMAGES}:{first}"
        if not seen or len(unseen(next(opened.data(source).batches(IMAGES)), seen).images) == IMAGES:
            return source
    raise UsageError("every random image was calibrated on; give --data")


def _check_batches(opened: OpenedBundle, batches: tuple[int, ...]) -> None:
    if max(batches) > opened.max_batch:
        raise UsageError(
            f"the graph was checked up to batch {opened.max_batch}, not {max(batches)}; "
            f"export it with --max-batch {max(batches)}"
        )


class _Job:
    """Candidates of a bundle on their way to a report."""

    def __init__(
        self,
        opened: OpenedBundle,
        candidates: list[Candidate],
        threads: int,
        fresh: bool,
        progress: Progress,
        crashes: Crashes | None = None,
    ) -> None:
        self.opened, self.candidates, self.threads = opened, candidates, threads
        self.fresh, self.progress = fresh, progress
        self.store, self.failed = ResultStore(opened.bundle), BackendFailures(candidates, crashes)
        self.judged: dict[Candidate, Verdict] = {}
        self.warnings: list[str] = []

    def build(self, batches: set[int], *, smaller: bool) -> None:
        """The plans that are missing, for these batch sizes; smaller: and for all below the largest."""
        for candidate in self.failed.alive(self.candidates):
            if candidate.row.runs == "plan":
                with self.failed.catching(candidate):
                    ensure_plan(self.opened, candidate, batches, self.progress, smaller=smaller)

    def judge(self, dataset: Dataset, limits: dict[str, float]) -> None:
        """The verdict on every candidate's answers, after comparing those that were not; without those that died."""
        keys = {candidate: parity_key(self.opened, candidate, dataset) for candidate in self.failed.alive(self.candidates)}
        known = self.opened.bundle.manifest.parity
        missing = [candidate for candidate, key in keys.items() if self.fresh or key not in known]
        records = {key: known[key] for key in keys.values() if key in known}
        if missing:
            made = compare_answers(
                self.opened, missing, dataset, batch=min(MAX_BATCH, self.opened.max_batch), threads=self.threads,
                progress=self.progress, guard=self.failed.catching,
            )  # fmt: skip
            new = {keys[candidate]: record for candidate, record in made.items()}
            self.store.keep("parity", new)
            records |= new
        self.judged = {
            candidate: judge_record(self.opened, candidate, records[key], limits)
            for candidate, key in keys.items()
            if (candidate, None) not in self.failed
        }

    def measure(
        self, timings: Timings, batches: tuple[int, ...], scenario_run: ScenarioRun, options: MeasureOptions
    ) -> BenchReport:
        """The sweep over batches, then LoadGen's scenarios; Ctrl-C ends them, and what there is is reported."""
        ceilings = Ceilings(options, self.store, threads=self.threads, fresh=self.fresh, progress=self.progress)
        interrupted = False
        try:
            if batches:
                ceilings.find({candidate.device for candidate in self.judged})
            timings.run([*self.judged], batches)
            for candidate in self.failed.alive([*self.judged]):
                scenario_run.run(candidate)
        except KeyboardInterrupt:
            interrupted = True
            if not (timings.records or scenario_run.records):
                raise
        if self.failed and not (timings.records or scenario_run.records):
            self.failed.raise_first()
        described, order = _json.plain(self.opened.description), itertools.product(batches, self.judged)
        results = result_rows(order, timings.records, self.judged, ceilings, self.opened)
        scenarios = scenario_run.results(self.judged)
        warnings = warnings_for(results, described, scenarios) + scenario_run.warnings
        return BenchReport(
            machine=describe_machine(), model=described, results=results, scenarios=scenarios,
            unmeasured=unmeasured(self.candidates, batches, timings.records, self.failed),
            verdicts=_advice(self.opened, results),
            warnings=[*warnings, *_warnings(self.judged), *self.warnings, *self.store.warnings], interrupted=interrupted,
            decision=decide(results, random_weights=described["weights"]["source"] == "random"),
        )  # fmt: skip


def _advice(opened: OpenedBundle, results: list[Result]) -> list[dict[str, Any]]:
    """What the results say, in words."""
    values = math.prod(int(size) for size in opened.input_spec.shape[1:])
    advice = advise(results, input=opened.description.input_format.value, image_values=values)
    return [item.to_dict() for item in advice]


def _warnings(judged: dict[Candidate, Verdict]) -> list[str]:
    """What makes the judgement of the answers unsafe, each once."""
    warnings = [warning for each in judged.values() for warning in each.warnings]
    for each in judged.values():
        if skipped := each.data.skipped:
            warnings.append(f"{len(skipped)} images were skipped: {skipped[0].name} ({skipped[0].reason}), ...")
            break
    return list(dict.fromkeys(warnings))


def _bundle(call: BenchArguments, batches: tuple[int, ...]) -> Bundle:
    target, options = call.model, call.explicit_of(ExportOptions, LoweringOptions)
    if isinstance(target, Bundle) or (str(target) not in registry.ARCHITECTURES and has_manifest(Path(target))):
        return export(target, call.output, overwrite=call.overwrite, progress=call.progress, **options)
    place = Path(call.output or Path("build") / re.sub(r"[^\w.=-]+", "-", str(target)))
    if call.overwrite or not has_manifest(place):
        options.setdefault("max_batch", max(MAX_BATCH, *batches))
    return export(str(target), place, overwrite=call.overwrite, progress=call.progress, **options)
