"""Plans in a bundle: built where they are missing or were built otherwise, and checked to compute in what was asked for."""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import KW_ONLY, dataclass, replace
from pathlib import Path
from threading import Event
from typing import Any

from resnet_deploy import _json
from resnet_deploy._arguments import takes
from resnet_deploy._deprecated import renamed
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.bundle.codec import key_of
from resnet_deploy.bundle.manifest import PlanFile, TimingCache
from resnet_deploy.bundle.names import FP32, graph_file, plan_file, timing_cache_file
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.bundle.transaction import Transaction
from resnet_deploy.engine.build import Built, build_plan
from resnet_deploy.engine.flavours import FLAVOURS, TENSORRT, TENSORRT_LEAN, Flavour, choose, no_device
from resnet_deploy.engine.options import DEFAULT_TARGETS, RTX_TARGETS, BuildOptions, OptimizationProfile, best_profile
from resnet_deploy.engine.plan import Origin, check_supported, here
from resnet_deploy.engine.report import PlanReport, summarize
from resnet_deploy.errors import BundleError, IntegrityError, PrecisionError, UnavailableError, UsageError
from resnet_deploy.pipeline.lower import lower
from resnet_deploy.pipeline.lowering_options import LoweringOptions
from resnet_deploy.pipeline.restore import restore
from resnet_deploy.specs import Precision, Progress, silent


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A plan of a bundle: its file, and what the manifest says of it.

    Attributes:
        name: of its file in the bundle.
        entry: the manifest's record.
        reused: whether it was there already.
    """

    name: str
    entry: PlanFile
    reused: bool

    @property
    def origin(self) -> Origin:
        return self.entry.origin

    @property
    def report(self) -> PlanReport:
        return self.entry.report

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"name": self.name, "reused": self.reused, **_json.plain(self.entry), "report": self.report.to_dict()}


@dataclass(frozen=True)
class BuildArguments(BuildOptions):
    """The arguments of `build`, which describes them."""

    bundle: Bundle | str | Path
    _: KW_ONLY
    precision: str | Iterable[str] = "fp32"
    progress: Progress = silent


@renamed(target="compute_capability")
@takes(BuildArguments)
def build(call: BuildArguments) -> list[Plan]:
    """Build plans of a bundle's graphs; nothing is done where they are there already.

    What was there before stays, whatever happens.

    Args:
        bundle: a bundle, or its folder.
        precision: of fp32, fp16, bf16, int8, fp8; graphs that are missing are made first, for INT8 and FP8 from the bundle's
            calibration.
        progress: told what is being done.

    Returns:
        A plan for each precision, in their order.

    Raises:
        UsageError: what cannot be meant, or what this package of TensorRT lacks.
        EngineError: the builder refuses the graph.
        PrecisionError: a plan computes in another precision than its graph says.
        UnavailableError: a GPU or a package is missing.
        BundleError: another process works on the bundle.
    """
    settings, progress = call.part(BuildOptions), call.progress
    graphs = LoweringOptions(precision=call.precision, int8_target="tensorrt")
    flavour = choose(settings.flavour)
    settings.check(flavour)
    flavour.load()
    bundle = Bundle.open(call.bundle)
    _check_batches(bundle, settings)
    restore(bundle, [FP32], progress)
    lower(bundle, graphs, progress)
    return [_build(bundle, kind, settings, flavour, progress) for kind in graphs.precisions]


def ensure_plan(
    opened: OpenedBundle, candidate: Candidate, batches: Iterable[int], progress: Progress = silent, *, smaller: bool = False
) -> None:
    """Build the plan that a candidate is to run here, for these batch sizes, where there is none.

    smaller: for all that are below the largest too. Raises UnavailableError without a GPU to run it on, UsageError where there
    is none and the package that builds it is another one that is not here.
    """
    flavour = FLAVOURS[candidate.backend]
    flavour.load()
    builder = FLAVOURS[flavour.plans_of]
    machine = here(flavour)
    if machine.gpu is None:
        raise no_device(f"{candidate} cannot run here")
    check_supported(machine)
    sizes = sorted(set(batches))
    try:
        name = opened.file(candidate)
        known = opened.bundle.manifest.files(PlanFile)[name].profiles
        held = range(1, sizes[-1] + 1) if smaller else sizes
        if all(best_profile(map(OptimizationProfile.parse, known), size) is not None for size in held):
            opened.bundle.artifact(name)
            return
    except (UsageError, UnavailableError, IntegrityError):  # none was built, or for another machine, or it is gone
        if builder.version is None:
            raise
    # Kernels are chosen for each size by itself, and building takes its time for each profile.
    profiles = (*([f"1:{sizes[-1]}:{sizes[-1]}"] if smaller else []), *map(str, sizes))
    build(
        opened.bundle, precision=candidate.precision.value, flavour=builder.name, batch=profiles, progress=progress,
        version_compatible=flavour is TENSORRT_LEAN,
    )  # fmt: skip


def build_beside(graph: Path, candidate: Candidate, batch: int) -> tuple[Path, Origin]:
    """A plan of a graph that is in no bundle, for one batch size on this machine's GPU: its path, and its origin."""
    flavour = FLAVOURS[candidate.backend]
    builder, compatible = FLAVOURS[flavour.plans_of], flavour is TENSORRT_LEAN
    options = BuildOptions(batch=(str(batch),), flavour=builder.name, version_compatible=compatible)
    machine, path = here(builder), graph.with_suffix(".plan")
    targets = _targets(options, builder, candidate.precision, machine)
    path.write_bytes(build_plan(graph, options, builder, targets, silent).plan)
    return path, replace(machine, version_compatible=compatible)


def _check_batches(bundle: Bundle, options: BuildOptions) -> None:
    checked, largest = bundle.manifest.model.request.max_batch, max(p.max for p in options.profiles)
    if largest > checked:
        raise UsageError(
            f"the graph was checked up to batch {checked}, not {largest}; export it with --max-batch {largest}, or build for "
            f"at most {checked}"
        )


def _build(bundle: Bundle, kind: Precision, options: BuildOptions, flavour: Flavour, progress: Progress) -> Plan:
    graph = graph_file(kind)
    made_from = bundle.sha256(graph)
    machine = here(flavour)
    targets = _targets(options, flavour, kind, machine)
    origin = replace(
        machine, targets=tuple(t for t in targets if t != "current"), version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
    )  # fmt: skip
    name = plan_file(kind, flavour.name, origin.version, origin.built_for, version_compatible=origin.version_compatible)
    key = key_of(made_from=made_from, profiles=list(map(str, options.profiles)), flags=options.flags(), origin=origin.to_dict())
    known = bundle.manifest.artifacts.get(name)
    if isinstance(known, PlanFile) and known.key == key:
        with contextlib.suppress(IntegrityError):  # a damaged plan is built again
            bundle.artifact(name)
            return Plan(name=name, entry=known, reused=True)
    built, layers = _built(bundle, graph, options, flavour, targets, origin, progress)
    report, warnings = _prove(graph, layers, built, kind)
    with bundle.transaction() as change:
        change.write(name, built.plan)
        entry = change.add(
            name, PlanFile, precision=kind, made_from=made_from, key=key, origin=origin,
            profiles=tuple(map(str, options.profiles)), flags=options.flags(), builder_s=built.builder_s, report=report,
            warnings=tuple(warnings),
        )  # fmt: skip
        _keep_cache(change, built, origin)
    return Plan(name=name, entry=entry, reused=False)


def _built(
    bundle: Bundle,
    graph: str,
    options: BuildOptions,
    flavour: Flavour,
    targets: tuple[str, ...],
    origin: Origin,
    progress: Progress,
) -> tuple[Built, tuple[dict[str, str], list[str]]]:
    """A plan in memory, and the layers of its graph, which is hashed and read while the builder works."""
    cache = timing_cache_file(flavour.name, origin.version, origin.built_for)
    kept = None
    with contextlib.suppress(BundleError):  # there is none, or it is gone or spoiled: kernels are timed again
        kept = bundle.artifact(cache).read_bytes()
    parsed = Event()

    def read() -> tuple[dict[str, str], list[str]]:
        parsed.wait()  # the builder's parser reads the same bytes first
        return graph_layers(bundle.artifact(graph))

    with ThreadPoolExecutor(1) as pool:
        checked = pool.submit(read)
        try:
            built = build_plan(bundle.path / graph, options, flavour, targets, progress, parsed.set, timing_cache=kept)
        finally:
            parsed.set()
            layers = checked.result()  # that the graph was changed explains whatever else went wrong
    return built, layers


def _targets(options: BuildOptions, flavour: Flavour, kind: Precision, machine: Origin) -> tuple[str, ...]:
    """What a TensorRT-RTX plan is for: as asked, else this machine's GPU, else every one that has the precision."""
    if flavour is TENSORRT:
        return ()
    able = [name for name in RTX_TARGETS if int(name.removeprefix("sm")) >= kind.row.compute_capability]
    if unable := [name for name in options.compute_capability if name not in able]:
        raise UsageError(f"{unable[0]} has no {kind.value} convolutions; --compute-capability takes {', '.join(able)} for it")
    if options.compute_capability:
        return tuple(dict.fromkeys(options.compute_capability))
    if machine.compute_capability is not None:
        check_supported(machine)
        return ("current",)
    return tuple(name for name in DEFAULT_TARGETS if name in able)


def _keep_cache(change: Transaction, built: Built, origin: Origin) -> None:
    if built.timing_cache:
        name = timing_cache_file(origin.flavour, origin.version, origin.built_for)
        change.write(name, built.timing_cache)
        change.add(name, TimingCache, origin=origin)


def graph_layers(path: Path) -> tuple[dict[str, str], list[str]]:
    """Of an ONNX file: the precision of every convolution by name, and the names of the residual additions."""
    import onnx

    from resnet_deploy.graph.describe import weighted

    model = onnx.ModelProto()
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped, memoryview(mapped) as content:
        model.ParseFromString(content)  # half of onnx.load's time, which copies the file first
    graph = model.graph
    convolutions = {node.name: precision for node, _, precision, _ in weighted(graph) if node.op_type == "Conv"}
    constants = {tensor.name for tensor in graph.initializer}
    additions = [node.name for node in graph.node if node.op_type == "Add" and constants.isdisjoint(node.input)]
    return convolutions, additions


def _prove(graph: str, layers: tuple[dict[str, str], list[str]], built: Built, kind: Precision) -> tuple[PlanReport, list[str]]:
    """The report of a plan, and what is less than its graph asks for; PrecisionError where that is all of it."""
    convolutions, additions = layers
    wanted = [name for name, precision in convolutions.items() if precision == kind.value]

    def others(report: PlanReport) -> list[str]:
        return [name for name in wanted if report.layers.get(name) != kind.value]

    report = summarize(built.layers, convolutions, additions)
    if not built.layers:
        return report, ["the package gave no layer report: the plan's precision is not known"]
    if len(others(report)) == len(wanted):  # names that the inspector spells in another way prove nothing
        logged = summarize(built.logged, convolutions, additions)
        report = logged if len(others(logged)) < len(wanted) else report
    other = others(report)
    if other and len(other) == len(wanted):
        computed = ", ".join(f"{count} in {name}" for name, count in report.convolutions.items()) or "none by that name"
        raise PrecisionError(
            f"{graph} has {len(wanted)} {kind.value} convolutions, and the plan computes {computed}: the package has no "
            f"{kind.value} kernels for these GPUs, or the graph's Q/DQ pairs are not what it takes. Nothing was kept"
        )
    if not other:
        return report, []
    return report, [f"{len(other)} of {len(wanted)} convolutions do not compute in {kind.value}: {', '.join(other[:5])}"]
