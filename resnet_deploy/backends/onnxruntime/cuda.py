"""ONNX Runtime on a GPU, on a stream of ours: inputs and outputs stay in memory of ours, and a run does not wait for itself.

ONNX Runtime is given the stream (provider option `user_compute_stream`) and told not to synchronize (run option
`disable_synchronize_execution_providers`), so that events before and after a run time it, and runs can be queued.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.backends.cuda import CudaDevice, cuda_device
from resnet_deploy.backends.onnxruntime.session import Session, SessionBackend
from resnet_deploy.backends.streams import Buffers, Stream, StreamBackend
from resnet_deploy.specs import TensorSpec


class OrtStream(Stream):
    """A session with its inputs and outputs bound to memory of ours.

    Args:
        device: whose memory and stream it is.
        handle: the stream that the session was opened on.
        session: the opened session.
    """

    def __init__(self, device: CudaDevice, handle: Any, session: Session) -> None:
        super().__init__(device, captures=False, handle=handle)
        self._session = session
        self._options = session.runtime.RunOptions()
        self._options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def allocate(self, batch: int) -> Buffers:
        spec, binding = self._session.input_spec, self._session.session.io_binding()
        buffers = Buffers(
            input=self._place(binding.bind_input, spec, batch),
            staging=self.device.pinned(spec.of_batch(batch), spec.dtype), context=binding,
        )  # fmt: skip
        for spec in self._session.outputs:
            buffers.outputs[spec.name] = self._place(binding.bind_output, spec, batch)
            buffers.answers[spec.name] = self.device.pinned(spec.of_batch(batch), spec.dtype)
        return buffers

    def execute(self, buffers: Buffers) -> None:
        self.device.run(lambda: self._session.session.run_with_iobinding(buffers.context, self._options), self.handle)

    def _place(self, bind: Any, spec: TensorSpec, batch: int) -> torch.Tensor:
        """Memory bound to a name; the binding keeps the address alone, the stream holds the memory."""
        shape = spec.of_batch(batch)
        tensor = self.device.empty(shape, spec.dtype)
        bind(spec.name, self.device.kind, 0, np.dtype(spec.dtype), list(shape), tensor.data_ptr())
        return tensor


class OrtCudaBackend(SessionBackend, StreamBackend):
    """An ONNX file in an ONNX Runtime session on the current CUDA device.

    Arguments and errors are those of `Session`. Raises UnavailableError where PyTorch sees no CUDA device.
    """

    def __init__(self, path: Path, candidate: Candidate, *, threads: int | None = None, traces: Path | None = None) -> None:
        device = cuda_device(candidate)
        handle = device.stream()
        self.candidate = candidate
        self._session = Session(path, candidate, threads=threads, traces=traces, stream=handle)
        self.input_spec, self.output_names = self._session.input_spec, self._session.output_names
        self.open_streams(device, [OrtStream(device, handle, self._session)])

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"gpu": self.device.name}

    def close(self) -> None:
        super().close()
        self._session.close()
