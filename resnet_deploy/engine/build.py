"""A graph into a plan: the parser, the builder, and what it reports. No precision is chosen here."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resnet_deploy.engine.flavours import TENSORRT, Flavour, errors_of, gpu, make_log, native_error
from resnet_deploy.engine.options import HARDWARE, BuildOptions
from resnet_deploy.engine.report import EngineLayer, from_builder, from_inspector
from resnet_deploy.errors import EngineError, UsageError
from resnet_deploy.specs import Progress

MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Built:
    """A finished plan. timing_cache: None where the package keeps none. builder_s: parsing and building, seconds."""

    plan: Any  # a buffer
    layers: list[EngineLayer]
    timing_cache: bytes | None
    builder_s: float


def build_plan(
    graph: Path,
    options: BuildOptions,
    flavour: Flavour,
    targets: tuple[str, ...],
    progress: Progress,
    parsed: Callable[[], None] = lambda: None,
    *,
    timing_cache: bytes | None = None,
) -> Built:
    """Build an ONNX file. targets: compute capabilities, for TensorRT-RTX; () for this machine's GPU. parsed: called once the
    file has been read.

    Raises EngineError for a graph that the package refuses, with its reason and the node; UnavailableError without a GPU
    where one is needed, or out of memory; UsageError for a batch that the graph does not take; KeyboardInterrupt.
    """
    trt, start = flavour.load(), time.perf_counter()
    log = make_log(trt)
    builder = trt.Builder(log)
    if not builder:
        raise native_error(log, f"{flavour.name} {flavour.version} makes no builder")
    # 10 needs the flag; 11 and RTX have no other kind.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = _parse(trt, network, log, graph)
    parsed()
    config = builder.create_builder_config()
    _configure(trt, config, options, targets)
    _add_profiles(builder, config, network.get_input(0), options, graph)
    cache = None
    if flavour is TENSORRT and options.timing_cache is not False:
        cache = config.create_timing_cache(timing_cache or b"")
        config.set_timing_cache(cache, False)
    with _cancellable() as stopped:
        config.progress_monitor = _monitor(trt, progress, stopped)
        plan = builder.build_serialized_network(network, config)
        if plan is None and stopped():
            raise KeyboardInterrupt
    if plan is None:
        raise native_error(log, f"{flavour.name} {flavour.version} cannot build {graph.name}")
    builder_s = time.perf_counter() - start
    layers = _inspected(trt, plan, log) or from_builder(line for _, text in log.messages for line in text.splitlines())
    del parser  # it owns weights that the network reads
    kept = None if cache is None else bytes(config.get_timing_cache().serialize())
    return Built(plan=plan, layers=layers, timing_cache=kept, builder_s=builder_s)


def _parse(trt: Any, network: Any, log: Any, graph: Path) -> Any:
    parser = trt.OnnxParser(network, log)
    if parser.parse_from_file(str(graph)):
        if network.num_inputs != 1:
            raise EngineError(f"{graph} has {network.num_inputs} inputs; a residual network has one")
        return parser
    reasons = []
    for error in (parser.get_error(index) for index in range(parser.num_errors)):
        node = f"node {error.node_name()!r} ({error.node_operator()}): " if error.node_operator() else ""
        reasons.append(f"{node}{error.desc()}")
    raise EngineError(f"{trt.__name__} {trt.__version__} cannot parse {graph}: {'; '.join(reasons[:3]) or errors_of(log)}")


def _configure(trt: Any, config: Any, options: BuildOptions, targets: tuple[str, ...]) -> None:
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # what the report is read from
    flags = {"TF32": options.tf32, "SPARSE_WEIGHTS": options.sparse_weights, "VERSION_COMPATIBLE": options.version_compatible}
    for name, wanted in flags.items():
        (config.set_flag if wanted else config.clear_flag)(getattr(trt.BuilderFlag, name))
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib * MIB)
    if options.tiling_optimization is not None:
        config.tiling_optimization_level = getattr(trt.TilingOptimizationLevel, options.tiling_optimization.upper())
    if options.max_aux_streams is not None:
        config.max_aux_streams = options.max_aux_streams
    if options.avg_timing is not None:
        config.avg_timing_iterations = options.avg_timing
    if options.hardware_compatible is not None:
        level = HARDWARE[options.hardware_compatible]
        config.hardware_compatibility_level = getattr(trt.HardwareCompatibilityLevel, level)
    if targets:
        config.num_compute_capabilities = len(targets)
        for index, target in enumerate(targets):
            config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), index)


def _add_profiles(builder: Any, config: Any, tensor: Any, options: BuildOptions, graph: Path) -> None:
    batch, *shape = tuple(tensor.shape)
    if batch != -1 and any((p.min, p.opt, p.max) != (batch,) * 3 for p in options.profiles):
        raise UsageError(f"{graph} takes batches of {batch} alone: --batch {batch}")
    for sizes in options.profiles:
        profile = builder.create_optimization_profile()
        profile.set_shape(tensor.name, *((size, *shape) for size in (sizes.min, sizes.opt, sizes.max)))
        config.add_optimization_profile(profile)


def _inspected(trt: Any, plan: Any, log: Any) -> list[EngineLayer]:
    """Layers by the engine inspector; none where there is no GPU to load the plan on."""
    if gpu() is None:
        return []
    engine = trt.Runtime(log).deserialize_cuda_engine(plan)
    if engine is None:  # built for other GPUs than this one
        return []
    return from_inspector(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))


def _monitor(trt: Any, progress: Progress, stopped: Callable[[], bool]) -> Any:
    """Progress of the outermost phase that has steps, told by the builder; it also asks whether to go on."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name == next(iter(self.steps), None):
                progress("build", step, self.steps[phase_name])
            return not stopped()

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    return Monitor()


@contextmanager
def _cancellable() -> Iterator[Callable[[], bool]]:
    """Ctrl-C as a flag that the builder is told of: an exception could not cross its C++ frames."""
    pressed = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return
    before = signal.signal(signal.SIGINT, lambda *_: pressed.set())
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)
