"""What ONNX Runtime's providers are told, by its own names.

https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html
https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html
"""

from __future__ import annotations

import functools
import hashlib
import tempfile
from pathlib import Path
from typing import Any

from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.errors import UsageError
from resnet_deploy.precisions import Precision
from resnet_deploy.specs import TensorSpec

CPU, CUDA, TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
_OF_CUDA = ("prefer_nhwc", "heuristic_search")


def provider_of(candidate: Candidate) -> str:
    """The provider that a candidate names."""
    return TENSORRT if "tensorrt" in candidate.options else CUDA if candidate.device == "cuda" else CPU


def provider_chain(
    path: Path, candidate: Candidate, stream: Any = None, shape: TensorSpec | None = None, batch: int = 1
) -> list[tuple[str, dict[str, str]]]:
    """A candidate's provider and those that it leaves nodes to, with their options.

    Args:
        path: of the ONNX file.
        candidate: its device, precision and options.
        stream: of a GPU, that the session runs on.
        shape: of the input, where TensorRT is to build an engine for `batch` alone; without, it builds none before a run.
        batch: images.

    Raises:
        UsageError: an option is of another provider than the one that runs.
    """
    first = provider_of(candidate)
    if first == TENSORRT and (other := [name for name in _OF_CUDA if name in candidate.options]):
        raise UsageError(f"{candidate}: {other[0]} is of the CUDA provider; leave out tensorrt")
    own = {} if stream is None else {"user_compute_stream": str(stream.cuda_stream)}
    of_each = {TENSORRT: own | _tensorrt(path, candidate, shape, batch), CUDA: own | _cuda(candidate), CPU: {}}
    names = [TENSORRT, CUDA, CPU]
    return [(name, of_each[name]) for name in names[names.index(first) :]]


def _cuda(candidate: Candidate) -> dict[str, str]:
    chosen = candidate.options
    search = "HEURISTIC" if "heuristic_search" in chosen else "EXHAUSTIVE"
    graph = "cuda_graph" in chosen and "tensorrt" not in chosen
    return {
        "use_tf32": _flag("tf32" in chosen), "enable_cuda_graph": _flag(graph), "prefer_nhwc": _flag("prefer_nhwc" in chosen),
        "cudnn_conv_algo_search": search, "cudnn_conv_use_max_workspace": "1",
    }  # fmt: skip


def _tensorrt(path: Path, candidate: Candidate, shape: TensorSpec | None, batch: int) -> dict[str, str]:
    """Networks are weakly typed there: a type of the graph that is not enabled is computed in FP32; FP8 has no such option."""
    options = {"trt_cuda_graph_enable": _flag("cuda_graph" in candidate.options)}
    if candidate.precision is not Precision.FP32 and candidate.precision is not Precision.FP8:
        options[f"trt_{candidate.precision.value}_enable"] = "1"
    if shape is None:
        return options
    sizes = "x".join(map(str, shape.of_batch(batch)))
    engines = _cache() / hashlib.sha256(f"{path.resolve()} {candidate}".encode()).hexdigest()[:16] / str(batch)
    engines.mkdir(parents=True, exist_ok=True)
    return options | {
        **{f"trt_profile_{end}_shapes": f"{shape.name}:{sizes}" for end in ("min", "opt", "max")},
        "trt_engine_cache_enable": "1", "trt_engine_cache_path": str(engines),
        "trt_timing_cache_enable": "1", "trt_timing_cache_path": str(_cache()),
    }  # fmt: skip


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    """Gone with the process. Engines run native code when they are loaded, so none is taken from a folder that others write."""
    return tempfile.TemporaryDirectory(prefix="resnet-deploy-tensorrt-")


def _cache() -> Path:
    return Path(_folder().name)


def _flag(on: bool) -> str:
    return str(int(on))
