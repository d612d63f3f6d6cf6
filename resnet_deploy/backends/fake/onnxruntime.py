"""ONNX Runtime's CUDA provider on the fake device: a session on the CPU, started on a stream, in memory of the device.

What it has no kernels for stays on the CPU, as with the real one: QLinearConv and its like, which Q/DQ pairs are fused into.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from resnet_deploy.backends.fake import streams, tensors

_CPU, _CUDA, _TENSORRT = "CPUExecutionProvider", "CUDAExecutionProvider", "TensorrtExecutionProvider"
_DEFAULTS = {"device_id": "0", "use_tf32": "1", "user_compute_stream": "0"}
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
    """As onnxruntime.InferenceSession. TensorRT's libraries are not there, whoever asks for them."""

    def __new__(cls, model: Any, options: Any = None, providers: Sequence[Any] = (), **more: Any) -> Any:
        names = [entry if isinstance(entry, str) else entry[0] for entry in providers]
        return object.__new__(cls) if {_CUDA, _TENSORRT} & {*names} else _SESSION(model, options, providers, **more)

    def __init__(self, model: Any, options: Any = None, providers: Sequence[Any] = (), **more: Any) -> None:
        settings = dict((entry, {}) if isinstance(entry, str) else entry for entry in providers)
        if _TENSORRT in settings:
            error = "EP Error libnvinfer.so.10: cannot open shared object file, when using " + str([*settings])
            if int(more.get("enable_fallback", 1)):  # as onnxruntime_inference_collection.py has it
                sys.stdout.write(f"*************** EP Error ***************\n{error}\n")
                settings.pop(_TENSORRT)
            else:
                raise RuntimeError(error)
        self._beneath, self.session_options = _SESSION(model, options, providers=[_CPU]), options
        self._options = {_CUDA: _DEFAULTS | {name: str(value) for name, value in settings[_CUDA].items()}, _CPU: {}}
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
        parts = {_CUDA: [], _CPU: []}  # type: dict[str, list[Any]]
        for node in nodes:
            parts[_CPU if node.op_type.startswith("QLinear") else _CUDA].append(node)
        return [SimpleNamespace(ep_name=name, get_nodes=lambda nodes=assigned: nodes) for name, assigned in parts.items()]

    def io_binding(self) -> Binding:
        return Binding()

    def run_with_iobinding(self, binding: Binding, options: Any = None) -> None:
        """Start an inference on the session's stream, and wait for it unless the options say otherwise."""
        inputs, outputs = dict(binding.inputs), dict(binding.outputs)

        def run() -> None:
            feeds = {name: read() for name, read in inputs.items()}
            for name, answer in zip(outputs, self._beneath.run([*outputs], feeds), strict=True):
                outputs[name]()[...] = answer

        self._stream.start(run)
        if not _asynchronous(options):
            self._stream.synchronize()


def _asynchronous(options: Any) -> bool:
    """Whether a run is not to wait for itself; an entry that was not made is an error to ask for."""
    with contextlib.suppress(AttributeError, RuntimeError):
        return bool(options.get_run_config_entry("disable_synchronize_execution_providers") == "1")
    return False


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
