"""A graph into a plan: the parser, the builder, and what it reports. No precision is chosen here."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from resnet_deploy.engine import rtx
from resnet_deploy.engine.flavours import TENSORRT, Flavour, Log, derive, errors_of, gpu, make_log, native_error
from resnet_deploy.engine.formats import LINEAR, set_input_format
from resnet_deploy.engine.options import BuildOptions
from resnet_deploy.engine.report import EngineLayer, from_builder, inspect_engine
from resnet_deploy.errors import EngineError, UsageError
from resnet_deploy.specs import Progress

if TYPE_CHECKING:  # the signatures of each package in turn: tests/typing
    from tensorrt_types import Builder, IBuilderConfig, INetworkDefinition, IProgressMonitor, ITensor, OnnxParser, TensorRt
else:
    IProgressMonitor = object  # which package's it is, is known when one is loaded

MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Built:
    """A finished plan.

    Attributes:
        plan: its bytes, as a buffer.
        layers: as the engine inspector has them, or the builder's log where it has none.
        logged: layers as that log has them.
        timing_cache: None where the package keeps none.
        builder_s: parsing and building, seconds.
    """

    plan: Any
    layers: list[EngineLayer]
    logged: list[EngineLayer]
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
    """Build a plan of an ONNX file.

    Args:
        graph: the file.
        options: how it is built.
        flavour: which package builds it.
        targets: compute capabilities, for TensorRT-RTX; () for this machine's GPU.
        progress: told what is being done.
        parsed: called once the file has been read.
        timing_cache: of an earlier build.

    Returns:
        The plan and its layers.

    Raises:
        EngineError: the package refuses the graph; the message has its reason and the node.
        UnavailableError: there is no GPU where one is needed, or too little memory.
        UsageError: the graph does not take a batch of the profiles.
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
    if options.input_format != LINEAR:
        set_input_format(trt, network.get_input(0), options.input_format)
    _add_profiles(builder, config, network.get_input(0), options, graph)
    cache = None
    if flavour is TENSORRT and options.timing_cache is not False:
        cache = config.create_timing_cache(timing_cache or b"")
        config.set_timing_cache(cache, False)
    with _cancellable() as stopped:
        monitor = derive(_Monitor, trt.IProgressMonitor)
        monitor.progress, monitor.stopped = progress, stopped
        config.progress_monitor = monitor
        plan = builder.build_serialized_network(network, config)
        if plan is None and stopped():
            raise KeyboardInterrupt
    if plan is None:
        raise native_error(log, f"{flavour.name} {flavour.version} cannot build {graph.name}")
    builder_s = time.perf_counter() - start
    logged = from_builder(line for _, text in log.messages for line in text.splitlines())
    layers = _inspected(trt, plan, log, options) or logged
    del parser  # it owns weights that the network reads
    kept = None if cache is None else bytes(config.get_timing_cache().serialize())
    return Built(plan=plan, layers=layers, logged=logged, timing_cache=kept, builder_s=builder_s)


def _parse(trt: TensorRt, network: INetworkDefinition, log: Log, graph: Path) -> OnnxParser:
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


def _configure(trt: TensorRt, config: IBuilderConfig, options: BuildOptions, targets: tuple[str, ...]) -> None:
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # what the report is read from
    flags = (
        (trt.BuilderFlag.TF32, options.tf32),
        (trt.BuilderFlag.SPARSE_WEIGHTS, options.sparse_weights),
        (trt.BuilderFlag.VERSION_COMPATIBLE, options.version_compatible),
    )
    for flag, wanted in flags:
        (config.set_flag if wanted else config.clear_flag)(flag)
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
        levels, ampere_plus = trt.HardwareCompatibilityLevel, options.hardware_compatible == "ampere-plus"
        config.hardware_compatibility_level = levels.AMPERE_PLUS if ampere_plus else levels.SAME_COMPUTE_CAPABILITY
    if targets:
        rtx.set_targets(trt, config, targets)


def _add_profiles(builder: Builder, config: IBuilderConfig, tensor: ITensor, options: BuildOptions, graph: Path) -> None:
    batch, *shape = tuple(tensor.shape)
    if batch != -1 and any((p.min, p.opt, p.max) != (batch,) * 3 for p in options.profiles):
        raise UsageError(f"{graph} has a fixed batch of {batch}: give --batch {batch}")
    for sizes in options.profiles:
        profile = builder.create_optimization_profile()
        profile.set_shape(tensor.name, *((size, *shape) for size in (sizes.min, sizes.opt, sizes.max)))
        config.add_optimization_profile(profile)


def _inspected(trt: TensorRt, plan: Any, log: Log, options: BuildOptions) -> list[EngineLayer]:
    """Layers by the engine inspector; none where there is no GPU to load the plan on, or where it says what cannot be read."""
    if gpu() is None:
        return []
    runtime = trt.Runtime(log)
    if options.version_compatible:
        runtime.engine_host_code_allowed = True  # it was built a moment ago
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:  # built for other GPUs than this one
        return []
    try:
        return inspect_engine(trt, engine)
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


class _Monitor(IProgressMonitor):
    """Progress of the outermost phase that has steps, told by the builder; it also asks whether to go on."""

    progress: Progress
    stopped: Callable[[], bool]

    def __init__(self) -> None:
        super().__init__()
        self.steps: dict[str, int] = {}

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        self.steps[phase_name] = num_steps

    def step_complete(self, phase_name: str, step: int) -> bool:
        if phase_name == next(iter(self.steps), None):
            self.progress("build", step, self.steps[phase_name])
        return not self.stopped()

    def phase_finish(self, phase_name: str) -> None:
        self.steps.pop(phase_name, None)


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
