"""What each layer of a plan takes: TensorRT's IProfiler, of `tensorrt` and `tensorrt_rtx` alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resnet_deploy.engine.flavours import derive
from resnet_deploy.engine.report import EngineLayer, inspect_engine

if TYPE_CHECKING:  # the signatures of each package in turn: tests/typing
    from tensorrt_types import ICudaEngine, IExecutionContext, IProfiler, TensorRt
else:
    IProfiler = object  # which package's it is, is known when one is loaded


class Profiler(IProfiler):
    """A profiler that keeps what it is told.

    Attributes:
        times_s: seconds of every run by engine layer, in order.
        context: the last that it was attached to.
    """

    context: IExecutionContext

    def __init__(self) -> None:
        super().__init__()
        self.times_s: dict[str, list[float]] = {}

    def report_layer_time(self, layer_name: str, ms: float) -> None:
        self.times_s.setdefault(layer_name, []).append(float(ms) / 1e3)


def make_profiler(trt: TensorRt) -> Profiler:
    """The profiler for a package."""
    return derive(Profiler, trt.IProfiler)


def attach(context: IExecutionContext, profiler: Profiler) -> None:
    """Let a profiler look on. Layers are reported on demand: an inference stays asynchronous, as trtexec has it."""
    profiler.context, context.profiler = context, profiler
    context.enqueue_emits_profile = False


def engine_layers(trt: TensorRt, engine: ICudaEngine) -> dict[str, EngineLayer]:
    """What an engine says of its layers, by the names that its profiler reports."""
    return {layer.name: layer for layer in inspect_engine(trt, engine, every_profile=True)}
