"""Which of a bundle's files is served, and what it takes, gives and is tuned for."""

from __future__ import annotations

from dataclasses import dataclass, replace

from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.bundle.manifest import PlanFile
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.engine.flavours import TENSORRT, version_tuple
from resnet_deploy.engine.formats import LINEAR
from resnet_deploy.engine.options import OptimizationProfile, best_profile
from resnet_deploy.engine.plan import Origin
from resnet_deploy.errors import ServingError, UsageError
from resnet_deploy.graph.describe import interface
from resnet_deploy.serving.triton.options import DELAY_S, TritonOptions
from resnet_deploy.serving.triton.releases import check_release, fits, tensorrt_of
from resnet_deploy.specs import TensorSpec


@dataclass(frozen=True, kw_only=True)
class ServedArtifact:
    """What is served. files: the bundle's, by their names in a version's folder. by_capability: which of them a GPU runs, by
    its compute capability (8.6), where there are several. inputs, outputs: with the batch first. profiles: optimization
    profiles of plans, in their order. max_batch: the largest that Triton may form. preferred: batches worth forming. delay_s:
    seconds that a request waits for others."""

    candidate: Candidate
    files: dict[str, str]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    max_batch: int
    by_capability: dict[str, str] | None = None
    profiles: tuple[OptimizationProfile, ...] = ()
    preferred: tuple[int, ...] = ()
    delay_s: float = DELAY_S
    warnings: tuple[str, ...] = ()


def choose_artifact(opened: OpenedBundle, options: TritonOptions) -> ServedArtifact:
    """The graph or the plans to serve. Raises UsageError where they have not been made or do not serve every batch,
    ServingError where a server's TensorRT cannot read them, or where no batch keeps the latency bound."""
    backend = options.flavour if options.runs_plans else options.platform
    device = "cuda" if options.on_gpu else "cpu"
    candidate = Candidate.parse(f"{backend}:{device},{options.precision}")
    artifact = _plans(opened, candidate, options) if options.runs_plans else _graph(opened, candidate)
    if options.max_batch is not None and options.max_batch > artifact.max_batch:
        raise UsageError(
            f"{next(iter(artifact.files.values()))} is for batches up to {artifact.max_batch}, not {options.max_batch}; "
            "build or export it with larger ones"
        )
    largest, delay_s = options.max_batch or artifact.max_batch, DELAY_S if options.max_delay_s is None else options.max_delay_s
    if options.latency_bound_s is not None:
        largest, delay_s = _within(opened, artifact, options, options.latency_bound_s, largest)
    preferred = tuple(size for size in artifact.preferred if size <= largest)
    return replace(artifact, max_batch=largest, preferred=preferred, delay_s=delay_s)


def _graph(opened: OpenedBundle, candidate: Candidate) -> ServedArtifact:
    name = opened.graph(candidate)
    inputs, outputs = interface(opened.bundle.artifact(name))
    return ServedArtifact(
        candidate=candidate, files={"model.onnx": name}, inputs=inputs, outputs=outputs, max_batch=opened.max_batch
    )


def _plans(opened: OpenedBundle, candidate: Candidate, options: TritonOptions) -> ServedArtifact:
    plans = opened.plans(candidate) if options.plan is None else _named(opened, candidate, options.plan)
    build = f"resnet-deploy build {opened.bundle.path} --precision {candidate.precision.value}"
    if options.release is not None:
        version = tensorrt_of(options.release)
        readable = {name: plan for name, plan in plans.items() if fits(plan.origin, version)}
        if not readable:
            name, plan = next(iter(plans.items()))
            check_release(options.release, name, plan.origin, build)
        plans = readable
    newest = max((plan.origin.version for plan in plans.values()), key=version_tuple)
    plans = {name: plan for name, plan in plans.items() if plan.origin.version == newest}
    if len({plan.profiles for plan in plans.values()}) > 1:
        raise UsageError(f"{', '.join(plans)} have different profiles; choose one with --plan, or build them with the same")
    profiles = tuple(map(OptimizationProfile.parse, next(iter(plans.values())).profiles))
    largest = max(profile.max for profile in profiles)
    if gap := next((size for size in range(1, largest + 1) if best_profile(profiles, size) is None), None):
        raise UsageError(
            f"{next(iter(plans))} has no profile for batch {gap}, and Triton forms batches of every size: build it with "
            f"`{build} --batch 1:{largest}:{largest}`"
        )
    if packed := [name for name, plan in plans.items() if plan.flags.get("input_format", LINEAR) != LINEAR]:
        raise UsageError(f"{packed[0]} takes its images in a layout that clients do not send: build it without --input-format")
    inputs, outputs = interface(opened.bundle.artifact(candidate.artifact))
    origins = {name: plan.origin for name, plan in plans.items()}
    files, by_capability = _files(origins)
    return ServedArtifact(
        candidate=candidate, files=files, by_capability=by_capability, inputs=inputs, outputs=outputs, max_batch=largest,
        profiles=profiles, preferred=tuple(sorted({profile.opt for profile in profiles} - {1})),
        warnings=tuple(_warnings(options, next(iter(origins.values())))),
    )  # fmt: skip


def _named(opened: OpenedBundle, candidate: Candidate, name: str) -> dict[str, PlanFile]:
    plans = opened.plans(candidate)
    if name not in plans:
        raise UsageError(f"{name} is not a plan of {candidate.artifact} for {candidate.backend}; there is {', '.join(plans)}")
    return {name: plans[name]}


def _files(plans: dict[str, Origin]) -> tuple[dict[str, str], dict[str, str] | None]:
    """Plans by their names in a version's folder and, where there are several, by the GPUs that they are for."""
    if len(plans) == 1:
        return {"model.plan": next(iter(plans))}, None
    files: dict[str, str] = {}
    by_capability: dict[str, str] = {}
    for name, origin in plans.items():
        file = f"model.{origin.built_for}.plan"
        files[file] = name
        for capability in _capabilities(origin):
            if capability in by_capability:
                raise UsageError(f"{name} and {files[by_capability[capability]]} are for compute capability {capability} both; "
                                 "choose one with --plan")  # fmt: skip
            by_capability[capability] = file
    return files, by_capability


def _capabilities(origin: Origin) -> list[str]:
    """sm86 → 8.6, sm120 → 12.0."""
    targets = [f"{name[2:-1]}.{name[-1]}" for name in origin.targets]
    return targets or [origin.compute_capability or "unknown"]


def _warnings(options: TritonOptions, origin: Origin) -> list[str]:
    warnings = []
    if origin.flavour != TENSORRT.name:
        warnings.append(
            f"Triton's TensorRT backend reads plans of tensorrt: one of {origin.flavour} needs a backend of your own"
        )
    elif options.release is None:
        warnings.append(
            f"the server must carry tensorrt {origin.version}: check a Triton release with --release, as in --release 26.09"
        )
    if origin.version_compatible:
        warnings.append("start the server with --backend-config=tensorrt,version-compatible=true")
    return warnings


def _within(
    opened: OpenedBundle, artifact: ServedArtifact, options: TritonOptions, bound_s: float, largest: int
) -> tuple[int, float]:
    """The largest batch that keeps a latency bound, and the delay that does; a delay that was asked for stays.

    A request waits until the batch before it is done, or for the delay where that is longer, and then for its own. Instances
    on one device share it: each takes as many times as long.
    """
    busy_s = {size: options.copies * p99_s for size, p99_s in _measured(opened, artifact).items()}
    requested_s = options.max_delay_s or 0.0
    needed_s = {size: time_s + max(time_s, requested_s) for size, time_s in busy_s.items()}
    kept = [size for size, time_s in needed_s.items() if size <= largest and time_s <= bound_s]
    if not kept:
        size = min(needed_s)
        raise ServingError(
            f"no batch keeps {bound_s * 1e3:g} ms: a request needs up to {needed_s[size] * 1e3:.3g} ms at batch {size}, whose "
            f"p99 is {busy_s[size] / options.copies * 1e3:.3g} ms alone, with {options.copies} instances and a delay of "
            f"{requested_s * 1e3:g} ms. Use fewer instances, a shorter delay, a lower precision, or a longer bound"
        )
    delay_s = min(DELAY_S, bound_s - busy_s[max(kept)]) if options.max_delay_s is None else requested_s
    return max(kept), delay_s


def _measured(opened: OpenedBundle, artifact: ServedArtifact) -> dict[int, float]:
    """The p99 latency in seconds of what is served, by batch size; of several measurements the newest."""
    hashes = {opened.bundle.sha256(name) for name in artifact.files.values()}
    records = [
        record
        for record in opened.bundle.manifest.measurements.values()
        if record.made_from in hashes and record.candidate == str(artifact.candidate) and not record.partial
    ]
    if not records:
        raise UsageError(
            f"{opened.bundle.path} has no measurement of {', '.join(artifact.files.values())} to keep a latency bound by; take "
            f"it with `resnet-deploy bench {opened.bundle.path} --backend {artifact.candidate}`, or leave --latency-bound out"
        )
    return {record.batch: record.latency_s.p99 for record in sorted(records, key=lambda record: record.measured)}
