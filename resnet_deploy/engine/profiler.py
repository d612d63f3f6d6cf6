"""What each layer of a plan takes: TensorRT's IProfiler, of `tensorrt` and `tensorrt_rtx` alike."""

from __future__ import annotations

from typing import Any

from resnet_deploy.engine.report import EngineLayer, from_inspector


def make_profiler(trt: Any) -> Any:
    """A profiler of a package that keeps what it is told. times_s: seconds of every run by engine layer, in order. context:
    the last that it was attached to."""

    class Profiler(trt.IProfiler):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.times_s: dict[str, list[float]] = {}
            self.context: Any = None

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.times_s.setdefault(layer_name, []).append(float(ms) / 1e3)

    return Profiler()


def attach(context: Any, profiler: Any) -> None:
    """Let a profiler look on. Layers are reported on demand: an inference stays asynchronous, as trtexec has it."""
    profiler.context, context.profiler = context, profiler
    context.enqueue_emits_profile = False


def engine_layers(trt: Any, engine: Any) -> dict[str, EngineLayer]:
    """What an engine says of its layers, by the names that its profiler reports."""
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return {layer.name: layer for layer in from_inspector(text, every_profile=True)}
