"""ONNX Runtime on a GPU, on a stream of ours: inputs and outputs stay in memory of ours, and a run does not wait for itself.

ONNX Runtime is given the stream (provider option `user_compute_stream`) and told not to synchronize (run option
`disable_synchronize_execution_providers`), so that events before and after a run time it, and runs can be queued. With
`cuda_graph` ONNX Runtime captures by itself, and waits for each replay (CUDAGraphManager::Replay): nothing is queued then.
Its TensorRT provider has a session for each batch size, with an engine for that shape alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.backends.cuda import CudaDevice, cuda_device
from resnet_deploy.backends.onnxruntime.session import Session, SessionBackend
from resnet_deploy.backends.streams import SHAPES, Buffers, Stream, StreamBackend
from resnet_deploy.specs import TensorSpec

_GRAPH_IDS = itertools.count(1)  # 0 is ONNX Runtime's own


class OrtStream(Stream):
    """Sessions with their inputs and outputs bound to memory of ours.

    Args:
        device: whose memory and stream it is.
        handle: the stream that the sessions are opened on.
        session: the opened session.
        session_for: gives the session of a batch size.
    """

    def __init__(self, device: CudaDevice, handle: Any, session: Session, session_for: Callable[[int], Session]) -> None:
        super().__init__(device, captures=False, handle=handle)
        self._session, self._session_for = session, session_for

    def allocate(self, batch: int) -> Buffers:
        session, options = self._session_for(batch).session, self._session.runtime.RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        # A graph has fixed addresses, and is found again by this number alone, whatever the shape.
        options.add_run_config_entry("gpu_graph_id", str(next(_GRAPH_IDS)))
        spec, binding = self._session.input_spec, session.io_binding()
        buffers = Buffers(
            input=self._place(binding.bind_input, spec, batch),
            staging=self.device.pinned(spec.of_batch(batch), spec.dtype), context=(session, binding, options),
        )  # fmt: skip
        for spec in self._session.outputs:
            buffers.outputs[spec.name] = self._place(binding.bind_output, spec, batch)
            buffers.answers[spec.name] = self.device.pinned(spec.of_batch(batch), spec.dtype)
        return buffers

    def execute(self, buffers: Buffers) -> None:
        session, binding, options = buffers.context
        self.device.run(lambda: session.run_with_iobinding(binding, options), self.handle)

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
        self.cuda_graph = "cuda_graph" in candidate.options
        engines = "tensorrt" in candidate.options  # built for the batch sizes that are run, and none for this first session
        self._session = session = Session(path, candidate, threads=threads, traces=None if engines else traces, stream=handle)
        self.input_spec, self.output_names = session.input_spec, session.output_names
        self.kept_shapes = SHAPES if engines else None

        def session_for(batch: int) -> Session:
            if not engines:
                return session
            return Session(
                path, candidate, threads=threads, traces=traces, stream=handle, shape=session.input_spec, batch=batch
            )

        self.open_streams(device, [OrtStream(device, handle, session, session_for)])

    def describe(self) -> dict[str, Any]:
        return super().describe() | {"gpu": self.device.name}

    def close(self) -> None:
        super().close()
        self._session.close()
