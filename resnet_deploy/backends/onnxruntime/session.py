"""An ONNX file in an ONNX Runtime session: opened, checked and described."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from resnet_deploy._deps import require, version
from resnet_deploy.backends.base import Backend
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.backends.layers import LayerTimes
from resnet_deploy.backends.onnxruntime.profile import profile
from resnet_deploy.backends.onnxruntime.providers import CUDA, TENSORRT, provider_chain, provider_of
from resnet_deploy.errors import GraphError, UnavailableError
from resnet_deploy.specs import TensorSpec

_LIBRARIES = re.compile(r"\bEP Error|\.so\b|\.dll\b|load library|\bCUDA |cudaError|cuDNN|nvinfer", re.IGNORECASE)
_SHOWN = "`resnet-deploy doctor` shows what was found"
_HEAVY = {"Conv", "FusedConv", "NhwcFusedConv", "QLinearConv", "Gemm", "MatMul"}
_DTYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8", "tensor(int64)": "int64"}


class Session:
    """A network's session.

    Args:
        path: the ONNX file.
        candidate: its device and options.
        threads: of one operator; ONNX Runtime's default, the physical cores, where None.
        traces: a folder for a profile, written when the session is closed, and for the optimized graph, where that can be
            written.
        stream: of a GPU, that the session runs on.
        shape, batch: of the input, where TensorRT is to build an engine for that batch alone.

    Raises:
        GraphError: the file does not load, or is no network of one input.
        UnavailableError: the provider that runs is not the one that the candidate names.
        MissingPackageError: ONNX Runtime is not installed.
    """

    def __init__(
        self,
        path: Path,
        candidate: Candidate,
        *,
        threads: int | None,
        traces: Path | None = None,
        stream: Any = None,
        shape: TensorSpec | None = None,
        batch: int = 1,
    ) -> None:
        self.runtime = require("onnxruntime", extra="gpu" if candidate.device == "cuda" else "cpu")
        self.path, self.threads = path, threads
        self._traces = traces
        self.session = _open(
            self.runtime, path, candidate, threads, traces, provider_chain(path, candidate, stream, shape, batch)
        )
        inputs = self.session.get_inputs()
        if len(inputs) != 1:
            raise GraphError(f"{path} has {len(inputs)} inputs; a residual network has one")
        self.input_spec, *outputs = (_spec(path, tensor) for tensor in (*inputs, *self.session.get_outputs()))
        self.outputs = tuple(outputs)
        self.output_names = tuple(spec.name for spec in outputs)

    def describe(self) -> dict[str, Any]:
        """Versions, providers and threads; on CUDA whether FP32 is computed in TF32, and what else its provider was told."""
        providers = self.session.get_providers()
        facts = {"onnxruntime": version("onnxruntime"), "providers": providers, "threads": self.threads}
        if CUDA in providers:
            told = self.session.get_provider_options()
            facts["tf32"] = told[CUDA].get("use_tf32") != "0"
            facts["prefer_nhwc"] = told[CUDA].get("prefer_nhwc") == "1"
            facts["cudnn_conv_algo_search"] = told[CUDA].get("cudnn_conv_algo_search")
            facts["cuda_graph"] = "1" in (
                told[CUDA].get("enable_cuda_graph"), told.get(TENSORRT, {}).get("trt_cuda_graph_enable")
            )  # fmt: skip
        return facts

    def close(self) -> None:
        """Write the profile where there is one, and free the session."""
        if self._traces is not None and self.session is not None:
            self.session.end_profiling()
        self.session = None


class SessionBackend(Backend):
    """What a backend on a session says of it, wherever it runs."""

    _session: Session

    def describe(self) -> dict[str, Any]:
        return self._session.describe()

    def summary(self) -> str:
        return f"runs {self._session.describe()['providers'][0]}"

    def profile(self, images: NDArray[Any], runs: int) -> LayerTimes:
        self.check(images)
        return profile(self._session.path, self.candidate, self._session.threads, images, runs)


def _spec(path: Path, tensor: Any) -> TensorSpec:
    if tensor.type not in _DTYPES:
        raise GraphError(f"{path}: {tensor.name} is {tensor.type}; expected one of {', '.join(_DTYPES)}")
    return TensorSpec(name=tensor.name, dtype=_DTYPES[tensor.type], shape=("batch", *tensor.shape[1:]))


def _open(
    ort: Any,
    path: Path,
    candidate: Candidate,
    threads: int | None,
    traces: Path | None,
    providers: list[tuple[str, dict[str, str]]],
) -> Any:
    """traces: a folder for a profile. providers: with their options, the one that is to run first."""
    provider = provider_of(candidate)
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
    if "simulate" in candidate.options or (candidate.device == "cuda" and candidate.precision.row.quantized):
        # Only the CPU has kernels for what Q/DQ pairs are fused into.
        options.add_session_config_entry("session.disable_quant_qdq", "1")
    if traces is not None:
        options.enable_profiling, options.profile_file_prefix = True, str(traces / "trace")
        if "tensorrt" not in candidate.options:  # its compiled nodes cannot be written
            options.optimized_model_filepath = str(traces / "optimized.onnx")
    try:
        session = ort.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
    except Exception as exc:  # onnxruntime has its own exception for every status code, and no common base
        reason = str(exc).splitlines()[0]
        if candidate.device == "cuda" and _LIBRARIES.search(reason):
            raise UnavailableError(f"{provider} was asked for, and it does not start: {reason}. {_SHOWN}") from exc
        raise GraphError(f"ONNX Runtime cannot load {path}: {reason}") from exc
    running = session.get_providers()
    if running[0] != provider:
        raise UnavailableError(
            f"{provider} was asked for, but ONNX Runtime fell back to {running[0]}: the CUDA, cuDNN or TensorRT libraries are "
            f"missing or of another version. {_SHOWN}"
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
