"""An ONNX Runtime session on a stream of ours: inputs and outputs stay in memory of ours, and a run does not wait for itself.

ONNX Runtime is given the stream (provider option `user_compute_stream`) and told not to synchronize (run option
`disable_synchronize_execution_providers`), so that events before and after a run time it, and runs can be queued.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from resnet_deploy.backends.base import Candidate
from resnet_deploy.backends.cuda import CudaDevice
from resnet_deploy.backends.streams import Bound, Lane
from resnet_deploy.errors import UnavailableError
from resnet_deploy.specs import TensorSpec


class OrtLane(Lane):
    """The stream of a session; `attach` gives it the session. Raises UnavailableError where PyTorch sees no CUDA device."""

    def __init__(self, candidate: Candidate, device: CudaDevice | None = None) -> None:
        if device is None and not torch.cuda.is_available():
            raise UnavailableError(f"{candidate} needs a CUDA device; torch {torch.__version__} sees none")
        super().__init__(device or CudaDevice(), captures=False)

    def attach(self, ort: Any, session: Any, input_spec: TensorSpec, outputs: tuple[TensorSpec, ...]) -> None:
        self._session, self._input, self._outputs = session, input_spec, outputs
        self._options = ort.RunOptions()
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def make(self, batch: int) -> Bound:
        binding = self._session.io_binding()
        bound = Bound(
            input=self._place(binding.bind_input, self._input, batch),
            staging=self.device.pinned(_shape(self._input, batch), self._input.dtype), context=binding,
        )  # fmt: skip
        for spec in self._outputs:
            bound.outputs[spec.name] = self._place(binding.bind_output, spec, batch)
            bound.answers[spec.name] = self.device.pinned(_shape(spec, batch), spec.dtype)
        return bound

    def execute(self, bound: Bound) -> None:
        self.device.run(lambda: self._session.run_with_iobinding(bound.context, self._options), self.stream)

    def close(self) -> None:
        super().close()
        self._session = None

    def _place(self, bind: Any, spec: TensorSpec, batch: int) -> torch.Tensor:
        """Memory bound to a name; the binding keeps the address alone, the lane holds the memory."""
        shape = _shape(spec, batch)
        tensor = self.device.empty(shape, spec.dtype)
        bind(spec.name, self.device.kind, 0, np.dtype(spec.dtype), list(shape), tensor.data_ptr())
        return tensor


def _shape(spec: TensorSpec, batch: int) -> tuple[int, ...]:
    return (batch, *(int(size) for size in spec.shape[1:]))
