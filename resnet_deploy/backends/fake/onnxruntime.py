"""ONNX Runtime's CUDA provider on the fake device: a session on the CPU, started on a stream, in memory of the device.

What it has no kernels for stays on the CPU, as with the real one: QLinearConv and its like, which Q/DQ pairs are fused into.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from resnet_deploy.backends.fake import streams, tensors

_CPU, _CUDA, _TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
_DEFAULTS = {
    "device_id": "0", "use_tf32": "1", "user_compute_stream": "0", "enable_cuda_graph": "0", "prefer_nhwc": "0",
    "cudnn_conv_algo_search": "EXHAUSTIVE", "cudnn_conv_use_max_workspace": "1",
}  # fmt: skip
_OF_TENSORRT = {
    "user_compute_stream", "trt_fp16_enable", "trt_int8_enable", "trt_cuda_graph_enable", "trt_engine_cache_enable",
    "trt_engine_cache_path", "trt_timing_cache_enable", "trt_timing_cache_path", "trt_profile_min_shapes",
    "trt_profile_opt_shapes", "trt_profile_max_shapes",
}  # fmt: skip
tensorrt_libraries = False  # whether TensorRT's provider finds them; a test may say so
_SESSION, _PROVIDERS = onnxruntime.InferenceSession, onnxruntime.get_available_providers


def install() -> None:
    """Add the provider. Nothing where the package has the real one."""
    if _CUDA not in _PROVIDERS():
        onnxruntime.InferenceSession = FakeCudaSession
        onnxruntime.get_available_providers = lambda: [_TENSORRT, _CUDA, *_PROVIDERS()]


def uninstall() -> None:
    """Put the package's own back."""
    onnxruntime.InferenceSession, onnxruntime.get_available_providers = _SESSION, _PROVIDERS


class FakeCudaSession:
    """As onnxruntime.InferenceSession. TensorRT's libraries are not there, whoever asks for them, unless a test says so."""

    def __new__(cls, model: Any, options: Any = None, providers: Sequence[Any] = (), **more: Any) -> Any:
        names = [entry if isinstance(entry, str) else entry[0] for entry in providers]
        return object.__new__(cls) if {_CUDA, _TENSORRT} & {*names} else _SESSION(model, options, providers, **more)

    def __init__(self, model: Any, options: Any = None, providers: Sequence[Any] = (), **more: Any) -> None:
        settings = dict((entry, {}) if isinstance(entry, str) else entry for entry in providers)
        if _TENSORRT in settings and not tensorrt_libraries:
            error = "EP Error libnvinfer.so.10: cannot open shared object file, when using " + str([*settings])
            if int(more.get("enable_fallback", 1)):  # as onnxruntime_inference_collection.py has it
                sys.stdout.write(f"*************** EP Error ***************\n{error}\n")
                settings.pop(_TENSORRT)
            else:
                raise RuntimeError(error)
        self._beneath, self.session_options = _SESSION(model, options, providers=[_CPU]), options
        told = {name: {key: str(value) for key, value in of.items()} for name, of in settings.items()}
        self._options = {name: told[name] for name in (_TENSORRT,) if name in told}
        self._options |= {_CUDA: _DEFAULTS | told[_CUDA], _CPU: {}}
        _check_names(self._options)
        of_tensorrt = self._options.get(_TENSORRT, {})
        self._captures = "1" in (self._options[_CUDA]["enable_cuda_graph"], of_tensorrt.get("trt_cuda_graph_enable"))
        self._one_graph = bool(of_tensorrt)
        self._shapes = of_tensorrt.get("trt_profile_opt_shapes")
        self._graphs: dict[str, Callable[[], None]] = {}
        if (cache := of_tensorrt.get("trt_engine_cache_path")) is not None:
            (Path(cache) / "TensorrtExecutionProvider.engine").write_text(str(self._shapes))
        handle = int(self._options[_CUDA]["user_compute_stream"])
        self._stream = streams.stream_of(handle) if handle else streams.Stream()

    def __getattr__(self, name: str) -> Any:
        """Inputs, outputs, the profile and what else does not depend on where it runs."""
        return getattr(self._beneath, name)

    def get_providers(self) -> list[str]:
        return [*self._options]

    def get_provider_options(self) -> dict[str, dict[str, str]]:
        return self._options

    def get_provider_graph_assignment_info(self) -> list[Any]:
        """Which provider has which nodes."""
        nodes = [node for part in self._beneath.get_provider_graph_assignment_info() for node in part.get_nodes()]
        first = next(iter(self._options))
        parts = {first: [], _CPU: []}  # type: dict[str, list[Any]]
        for node in nodes:
            parts[_CPU if node.op_type.startswith("QLinear") else first].append(node)
        return [SimpleNamespace(ep_name=name, get_nodes=lambda nodes=assigned: nodes) for name, assigned in parts.items()]

    def io_binding(self) -> Binding:
        return Binding()

    def run_with_iobinding(self, binding: Binding, options: Any = None) -> None:
        """Start an inference on the session's stream, and wait for it unless the options say otherwise.

        A captured graph is found again by its number alone, reads and writes where it was captured, and is waited for.
        """
        number = "0" if self._one_graph else _entry(options, "gpu_graph_id") or "0"
        if (replay := self._graphs.get(number)) is not None:
            self._stream.start(replay)
            self._stream.synchronize()
            return
        inputs, outputs = dict(binding.inputs), dict(binding.outputs)

        def run() -> None:
            feeds = {name: read() for name, read in inputs.items()}
            shapes = ",".join(f"{name}:{'x'.join(map(str, value.shape))}" for name, value in feeds.items())
            if self._shapes not in (None, shapes):
                raise RuntimeError(f"TensorRT EP: {shapes} is outside of the profile {self._shapes}")
            for name, answer in zip(outputs, self._beneath.run([*outputs], feeds), strict=True):
                outputs[name]()[...] = answer

        if self._captures:
            self._graphs[number] = run
        self._stream.start(run)
        if self._captures or _entry(options, "disable_synchronize_execution_providers") != "1":
            self._stream.synchronize()


def _entry(options: Any, name: str) -> str | None:
    """Of a run's options; one that was not made is an error to ask for."""
    with contextlib.suppress(AttributeError, RuntimeError):
        return str(options.get_run_config_entry(name))
    return None


def _check_names(options: dict[str, dict[str, str]]) -> None:
    """Raise the error for an option that a provider does not have."""
    for provider, known in ((_CUDA, {*_DEFAULTS}), (_TENSORRT, _OF_TENSORRT)):
        for name in options.get(provider, {}):
            if name not in known:
                raise RuntimeError(f'Unknown provider option: "{name}".')


class Binding:
    """As onnxruntime.IOBinding: addresses of the device's memory by name."""

    def __init__(self) -> None:
        self.inputs: dict[str, Callable[[], NDArray[Any]]] = {}
        self.outputs: dict[str, Callable[[], NDArray[Any]]] = {}

    def bind_input(self, name: str, device: str, number: int, dtype: Any, shape: Sequence[int], address: int) -> None:
        self.inputs[name] = _memory(device, dtype, shape, address)

    def bind_output(self, name: str, device: str, number: int, dtype: Any, shape: Sequence[int], address: int) -> None:
        self.outputs[name] = _memory(device, dtype, shape, address)


def _memory(device: str, dtype: Any, shape: Sequence[int], address: int) -> Callable[[], NDArray[Any]]:
    """Access to memory of the device by its address, which is all that native code is given."""
    if device != "cuda" or tensors.kind_of(address) != "device":
        raise RuntimeError(f"{device} memory was named, and the address is one of {tensors.kind_of(address) or 'the host'}")
    kind = np.dtype(dtype)
    size = int(np.prod(shape)) * kind.itemsize

    def access() -> NDArray[Any]:
        if tensors.kind_of(address) != "device":
            raise RuntimeError("CUDA error: an illegal memory access was encountered")
        return np.frombuffer((ctypes.c_char * size).from_address(address), kind).reshape(shape)

    return access
