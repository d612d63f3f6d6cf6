"""ONNX Runtime on CPU and CUDA."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resnet_deploy._deps import require, version
from resnet_deploy.backends.base import Backend, Candidate, Outputs
from resnet_deploy.backends.layers import WARM_UPS, LayerTimes
from resnet_deploy.backends.onnxruntime.trace import read_trace
from resnet_deploy.errors import BackendError, GraphError, UnavailableError, UsageError
from resnet_deploy.specs import TensorSpec

if TYPE_CHECKING:
    from resnet_deploy.backends.cuda import CudaDevice
    from resnet_deploy.backends.onnxruntime.cuda import OrtLane
    from resnet_deploy.backends.streams import Lanes

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider", "tensorrt": "TensorrtExecutionProvider"}
_HEAVY = {"Conv", "FusedConv", "NhwcFusedConv", "QLinearConv", "Gemm", "MatMul"}
_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8", "tensor(int64)": "int64"}


class OrtBackend(Backend):
    """An ONNX file in an ONNX Runtime session. On CUDA it runs on a stream of ours, its inputs and outputs bound to memory of
    ours, so that its parts can be timed and queued.

    threads: of one operator; ONNX Runtime's default, the physical cores, where None. device: for tests. traces: a folder for
    a profile, written when the backend is closed, and for the optimized graph, where that can be written. Raises GraphError
    for a file that does not load, UnavailableError where the provider that runs is not the one asked for.
    """

    def __init__(
        self,
        path: Path,
        candidate: Candidate,
        *,
        threads: int | None = None,
        device: CudaDevice | None = None,
        traces: Path | None = None,
    ) -> None:
        ort = require("onnxruntime", extra="gpu" if candidate.device == "cuda" else "cpu")
        self.candidate = candidate
        self._path = path
        self._threads = threads
        self._traces = traces
        lane = _lane(candidate, device) if candidate.device == "cuda" else None
        self._session = _session(ort, path, candidate, threads, traces, lane and lane.stream)
        inputs = self._session.get_inputs()
        if len(inputs) != 1:
            raise GraphError(f"{path} has {len(inputs)} inputs; a residual network has one")
        self.input_spec, *outputs = (_spec(path, tensor) for tensor in (*inputs, *self._session.get_outputs()))
        self.output_names = tuple(spec.name for spec in outputs)
        self._lanes = None if lane is None else _attached(lane, ort, self._session, self.input_spec, tuple(outputs))
        self._input: Any = None
        self._answers: list[NDArray[Any]] | None = None

    def bind(self, images: NDArray[Any]) -> None:
        self.check(images)
        self._answers = None
        if self._lanes is not None:
            self._lanes.bind(images)
        else:
            self._input = np.ascontiguousarray(images)

    def enqueue(self) -> None:
        if self._lanes is not None:
            self._lanes.enqueue()
        else:  # `run` hands its outputs over without a copy; a binding copies them
            self._answers = self._session.run(self.output_names, {self.input_spec.name: self._input})

    def synchronize(self) -> None:
        if self._lanes is not None:
            self._lanes.synchronize(spin=self.spin_wait)

    def outputs(self) -> Outputs:
        if self._lanes is not None:
            return self._lanes.outputs()
        if self._answers is None:
            raise UsageError("there is no answer yet: call enqueue after bind")
        return dict(zip(self.output_names, self._answers, strict=True))

    def settings(self) -> dict[str, Any]:
        return {} if self._lanes is None else {"cuda_graph": False, "streams": 1}

    def describe(self) -> dict[str, Any]:
        return {
            "onnxruntime": version("onnxruntime"),
            "providers": self._session.get_providers(),
            "threads": self._threads,
        }

    def profile(self, images: NDArray[Any], runs: int) -> LayerTimes:
        """By ONNX Runtime's profiler. On a GPU, in a process whose kernels are waited for one by one: the profiler of the
        published packages knows when a kernel was started, and not how long it ran."""
        self.check(images)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            np.save(folder / "images.npy", images)
            arguments = [str(self._path), str(self.candidate), json.dumps(self._threads), str(runs), name]
            (record if self.candidate.device == "cpu" else record_apart)(*arguments)
            (trace,) = folder.glob("trace*.json")
            optimized = folder / "optimized.onnx"
            return read_trace(trace, self._path, optimized if optimized.is_file() else None)

    def close(self) -> None:
        if self._lanes is not None:
            self._lanes.close()
        if self._traces is not None and self._session is not None:
            self._session.end_profiling()
        self._session = self._input = self._answers = None


def record(path: str, candidate: str, threads: str, runs: str, folder: str) -> None:
    """Run a folder's images.npy with the profiler on, which leaves its trace there. Text alone, so that another process can
    be told to."""
    images = np.load(Path(folder) / "images.npy")
    backend = OrtBackend(Path(path), Candidate.parse(candidate), threads=json.loads(threads), traces=Path(folder))
    with backend:
        backend.bind(images)
        for _ in range(WARM_UPS + int(runs)):
            backend.enqueue()
            backend.synchronize()


def record_apart(*arguments: str) -> None:
    """`record` in a process of its own, in which CUDA's launches wait for their kernels. Raises BackendError where it fails."""
    code = "import sys; from resnet_deploy.backends.onnxruntime.backend import record; record(*sys.argv[1:])"
    settings = {"CUDA_LAUNCH_BLOCKING": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=os.environ | settings, capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"it ended with {done.returncode}"]
        said = re.sub(r"^[a-z_.]+[.]\w+: ", "", lines[-1])  # the exception's name is for programmers
        raise BackendError(f"the profile of {arguments[1]} failed: {said}")


def _spec(path: Path, tensor: Any) -> TensorSpec:
    if tensor.type not in _DTYPES:
        raise GraphError(f"{path}: {tensor.name} is {tensor.type}; expected one of {', '.join(_DTYPES)}")
    return TensorSpec(name=tensor.name, dtype=_DTYPES[tensor.type], shape=("batch", *tensor.shape[1:]))


def _lane(candidate: Candidate, device: CudaDevice | None) -> OrtLane:
    from resnet_deploy.backends.onnxruntime.cuda import OrtLane

    return OrtLane(candidate, device)


def _attached(lane: OrtLane, ort: Any, session: Any, input_spec: TensorSpec, outputs: tuple[TensorSpec, ...]) -> Lanes:
    from resnet_deploy.backends.streams import Lanes

    lane.attach(ort, session, input_spec, outputs)
    return Lanes(lane.device, [lane])


def _session(
    ort: Any, path: Path, candidate: Candidate, threads: int | None, traces: Path | None = None, stream: Any = None
) -> Any:
    """traces: a folder for a profile. stream: of a GPU, that the first provider runs on."""
    provider = _PROVIDERS["tensorrt" if "tensorrt" in candidate.options else candidate.device]
    if provider not in ort.get_available_providers():
        raise UnavailableError(
            f"this onnxruntime {ort.__version__} has no {provider}; it has {', '.join(ort.get_available_providers())}. "
            'Install it with: pip install "resnet-deploy[gpu]"'
        )
    options = ort.SessionOptions()
    options.log_severity_level = 4  # its own stderr lines; what matters arrives as exceptions
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if threads is not None:
        options.intra_op_num_threads = threads
    if "simulate" in candidate.options:
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if traces is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(traces / "trace")
        if "tensorrt" not in candidate.options:  # its compiled nodes cannot be written
            options.optimized_model_filepath = str(traces / "optimized.onnx")
    chain = list(_PROVIDERS.values())  # each may leave nodes to the next: TensorRT, CUDA, CPU
    own = {} if stream is None else {"user_compute_stream": str(stream.cuda_stream)}
    providers = [
        (name, {} if name == _PROVIDERS["cpu"] else own)
        for name in reversed(chain)
        if chain.index(name) <= chain.index(provider)
    ]
    try:
        session = ort.InferenceSession(str(path), options, providers=providers)
    except Exception as exc:  # onnxruntime has its own exception for every status code, and no common base
        raise GraphError(f"ONNX Runtime cannot load {path}: {str(exc).splitlines()[0]}") from exc
    running = session.get_providers()
    if running[0] != provider:
        raise UnavailableError(
            f"{provider} was asked for, but ONNX Runtime fell back to {running[0]}: the CUDA, cuDNN or TensorRT libraries are "
            "missing or of another version. `resnet-deploy doctor` shows what was found"
        )
    if (heavy := _elsewhere(session, provider)) is not None:
        raise UnavailableError(f"{provider} was asked for, but ONNX Runtime runs {heavy}")
    return session


def _elsewhere(session: Any, provider: str) -> str | None:
    """A convolution or matrix product that another provider runs; None where there is none, or where ONNX Runtime (before
    1.24) does not tell."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return None
    for part in session.get_provider_graph_assignment_info():
        for node in part.get_nodes() if part.ep_name != provider else ():
            if node.op_type in _HEAVY:
                return f"{node.name} ({node.op_type}) on {part.ep_name}"
    return None
