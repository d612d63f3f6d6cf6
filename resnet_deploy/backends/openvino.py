"""OpenVINO on the CPU: it runs the very graphs that TensorRT gets, Q/DQ and all."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_deploy._deps import require, version
from resnet_deploy.backends.base import Backend, Outputs
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.backends.layer_names import OnnxNames
from resnet_deploy.backends.layers import WARM_UPS, LayerTime, LayerTimes, median, precision
from resnet_deploy.errors import GraphError, UsageError
from resnet_deploy.specs import TensorSpec

# The graph says what is computed in what; left alone, OpenVINO would pick BF16 where the CPU has it.
_F32 = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}


class OpenVinoBackend(Backend):
    """An ONNX file compiled by OpenVINO for the CPU. threads: of inference; OpenVINO's default where None.

    Raises GraphError for a file that does not compile, MissingPackageError without the extra `openvino`.
    """

    def __init__(self, path: Path, candidate: Candidate, *, threads: int | None = None) -> None:
        ov = require("openvino", extra="openvino")
        self.candidate = candidate
        self._threads = threads
        self._path = path
        self._ov = ov
        self._compiled = self._compile()
        if len(self._compiled.inputs) != 1:
            raise GraphError(f"{path} has {len(self._compiled.inputs)} inputs; a residual network has one")
        port = self._compiled.input(0)
        shape = tuple(int(size.get_length()) for size in list(port.partial_shape)[1:])
        dtype = np.dtype(port.element_type.to_dtype()).name
        self.input_spec = TensorSpec(name=port.any_name, dtype=dtype, shape=("batch", *shape))
        self.output_names = tuple(port.any_name for port in self._compiled.outputs)
        self._request = self._compiled.create_infer_request()
        self._images: NDArray[Any] | None = None
        self._ran = False

    def _compile(self, **properties: Any) -> Any:
        if self._threads is not None:
            properties["INFERENCE_NUM_THREADS"] = self._threads
        try:
            core = self._ov.Core()
            return core.compile_model(core.read_model(str(self._path)), "CPU", _F32 | properties)
        except RuntimeError as exc:
            raise GraphError(f"OpenVINO cannot compile {self._path}: {_reason(exc)}") from exc

    def bind(self, images: NDArray[Any]) -> None:
        self.check(images)
        self._images = np.array(images, dtype=self.input_spec.dtype, order="C")  # held: the tensor shares its memory
        self._request.set_input_tensor(self._ov.Tensor(self._images, shared_memory=True))
        self._ran = False

    def enqueue(self) -> None:
        self._request.infer()
        self._ran = True

    def synchronize(self) -> None:
        """`enqueue` returns when the answer is there."""

    def outputs(self) -> Outputs:
        if not self._ran:
            raise UsageError("there is no answer yet: call enqueue after bind")
        return {name: self._request.get_tensor(name).data.copy() for name in self.output_names}

    def describe(self) -> dict[str, Any]:
        return {"openvino": version("openvino"), "device": "CPU", "precision_hint": "f32", "threads": self._threads}

    def summary(self) -> str:
        return "runs TensorRT's INT8 graphs on this CPU"

    def profile(self, images: NDArray[Any], runs: int) -> LayerTimes:
        """By OpenVINO's counters: averages of all inferences, in whole microseconds. The warm-up is taken out of them, so the
        times are means."""
        self.check(images)
        compiled = self._compile(PERF_COUNT=True)
        request, walls_s = compiled.create_infer_request(), []
        request.set_input_tensor(self._ov.Tensor(np.array(images, order="C")))
        before: list[float] = []
        for number in range(WARM_UPS + runs):
            start = time.perf_counter()
            request.infer()
            walls_s.append(time.perf_counter() - start)
            if number == WARM_UPS - 1:
                before = [layer.real_time.total_seconds() for layer in request.profiling_info]
        names = OnnxNames(self._path)
        told = {node.get_friendly_name(): _told(node) for node in compiled.get_runtime_model().get_ordered_ops()}
        layers = []
        for layer, warm_s in zip(request.profiling_info, before, strict=True):
            if layer.status.name != "EXECUTED":
                continue
            fused, element = told[layer.node_name]
            made_of = names.known([layer.node_name, *fused.split(",")])
            spent_s = layer.real_time.total_seconds() * (WARM_UPS + runs) - warm_s * WARM_UPS
            layers.append(
                LayerTime(
                    name=names.title(made_of, layer.node_name),
                    kind=layer.node_type,
                    onnx=made_of,
                    precision=precision(element, layer.node_type),
                    time_s=max(0.0, spent_s / runs),
                )
            )
        return LayerTimes(layers=tuple(layers), wall_s=median(walls_s))

    def close(self) -> None:
        self._request = self._compiled = self._images = None


def _told(node: Any) -> tuple[str, str]:
    """What a node of the compiled model was made of, and in which precision it runs."""
    about = node.get_rt_info()
    return (str(_plain(about["originalLayersNames"])), str(_plain(about["runtimePrecision"])))


def _plain(value: Any) -> Any:
    """OpenVINO wraps what it tells in a type of its own, before 2024.5."""
    return value if isinstance(value, str) else value.astype(str)


def _reason(exc: RuntimeError) -> str:
    """OpenVINO's messages are stacks of `Check failed` lines; the last one says why."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(exc).__name__
