"""OpenVINO on the CPU: it runs the very graphs that TensorRT gets, Q/DQ and all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_deploy._deps import require, version
from resnet_deploy.backends.base import Backend, Candidate, Outputs
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
        properties = _F32 | ({} if threads is None else {"INFERENCE_NUM_THREADS": threads})
        try:
            core = ov.Core()
            self._compiled = core.compile_model(core.read_model(str(path)), "CPU", properties)
        except RuntimeError as exc:
            raise GraphError(f"OpenVINO cannot compile {path}: {_reason(exc)}") from exc
        if len(self._compiled.inputs) != 1:
            raise GraphError(f"{path} has {len(self._compiled.inputs)} inputs; a residual network has one")
        port = self._compiled.input(0)
        shape = tuple(int(size.get_length()) for size in list(port.partial_shape)[1:])
        dtype = np.dtype(port.element_type.to_dtype()).name
        self.input_spec = TensorSpec(name=port.any_name, dtype=dtype, shape=("batch", *shape))
        self.output_names = tuple(port.any_name for port in self._compiled.outputs)
        self._request = self._compiled.create_infer_request()
        self._tensor: Any = ov.Tensor
        self._images: NDArray[Any] | None = None
        self._ran = False

    def bind(self, images: NDArray[Any]) -> None:
        self.check(images)
        self._images = np.array(images, order="C")  # held: the tensor shares its memory
        self._request.set_input_tensor(self._tensor(self._images, shared_memory=True))
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

    def close(self) -> None:
        self._request = self._compiled = self._images = None


def _reason(exc: RuntimeError) -> str:
    """OpenVINO's messages are stacks of `Check failed` lines; the last one says why."""
    lines = [line.strip() for line in str(exc).splitlines() if line.strip()]
    return lines[-1][:300] if lines else type(exc).__name__
