"""The interface of every backend, and the text that asks for one."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from resnet_deploy import limits
from resnet_deploy.backends.layers import LayerTimes
from resnet_deploy.errors import UsageError
from resnet_deploy.specs import Precision, TensorSpec

if TYPE_CHECKING:
    from resnet_deploy.backends.streams import Lanes

Outputs = Mapping[str, NDArray[Any]]

BACKENDS: dict[str, frozenset[str]] = {
    "eager": frozenset(
        {"cpu", "cuda", "fp32", "fp16", "bf16", "channels_last", "compile", "max_autotune", "cuda_graph", "streams="}
    ),
    "onnxruntime": frozenset({"cpu", "cuda", "fp32", "fp16", "int8", "fp8", "simulate", "tensorrt"}),
    "openvino": frozenset({"cpu", "fp32", "fp16", "bf16", "int8"}),
    "tensorrt": frozenset({"cuda", "fp32", "fp16", "bf16", "int8", "fp8", "no_cuda_graph", "streams="}),
    "tensorrt-rtx": frozenset({"cuda", "fp32", "fp16", "bf16", "int8", "fp8", "no_cuda_graph", "streams="}),
}
_OF_GPU = frozenset({"tensorrt", "cuda_graph", "no_cuda_graph", "streams"})
PLANS = frozenset({"tensorrt", "tensorrt-rtx"})  # those that run plans, not graphs


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A backend with its options: what is compared and measured.

    device: cpu or cuda. precision: of the graph, or of the eager network. options: the backend's own, by name; one that
    ends in `=` takes a number.
    """

    backend: str
    device: str = "cpu"
    precision: Precision = Precision.FP32
    options: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Candidate:
        """Read `BACKEND[:OPTION,...]`: `eager`, `eager:fp16,channels_last`, `onnxruntime:cuda`. Raises UsageError for what is
        unknown, repeated or contradicts itself."""
        backend, colon, rest = text.strip().partition(":")
        if backend not in BACKENDS:
            raise UsageError(f"unknown backend {backend!r}; choose from {', '.join(BACKENDS)}")
        options = rest.split(",") if colon else []
        for option in options:
            _check_option(backend, option)
        names = [option.partition("=")[0] for option in options]
        if repeated := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
            raise UsageError(f"{text!r} gives {repeated[0]} more than once")
        precisions = [option for option in options if option in {p.value for p in Precision}]
        devices = [option for option in options if option in {"cpu", "cuda"}]
        if len(precisions) > 1 or len(devices) > 1:
            raise UsageError(f"{text!r} asks for more than one device or precision")
        if devices == ["cpu"] and (of_gpu := [name for name in names if name in _OF_GPU]):
            raise UsageError(f"{text!r} contradicts itself: {of_gpu[0]} needs a GPU; leave out cpu")
        needs_gpu = backend in PLANS or "tensorrt" in options
        return cls(
            backend=backend,
            device=devices[0] if devices else "cuda" if needs_gpu else "cpu",
            precision=Precision(precisions[0]) if precisions else Precision.FP32,
            options=tuple(sorted(set(options) - set(devices) - set(precisions))),
        )

    @property
    def artifact(self) -> str:
        """The file of a bundle that it runs, or that its plan is built from. ONNX Runtime's CPU kernels have an INT8 graph of
        their own; simulate runs the one for TensorRT, each Q/DQ pair as it is written, in FP32."""
        if self.backend == "eager":
            return "weights.safetensors"
        own = (self.backend, self.device, self.precision) == ("onnxruntime", "cpu", Precision.INT8)
        return f"model.{self.precision.value}{'-cpu' if own and 'simulate' not in self.options else ''}.onnx"

    def count(self, option: str) -> int:
        """The number that an option was given; 1 without it."""
        return next((int(text.partition("=")[2]) for text in self.options if text.startswith(f"{option}=")), 1)

    @property
    def name(self) -> str:
        """Backend and its own options: `eager`, `eager:channels_last`. Device and precision stand beside it."""
        return f"{self.backend}:{','.join(self.options)}" if self.options else self.backend

    def __str__(self) -> str:
        implied = self.backend in PLANS or "tensorrt" in self.options
        extra = [self.device] * (self.device != "cpu" and not implied)
        extra += [self.precision.value] * (self.precision is not Precision.FP32)
        options = [*extra, *self.options]
        return f"{self.backend}:{','.join(options)}" if options else self.backend


def _check_option(backend: str, option: str) -> None:
    """Raise UsageError where a backend has no such option, or where its number is none."""
    name, sign, value = option.partition("=")
    if name + sign not in BACKENDS[backend]:
        known = ", ".join(f"{name}N" if name.endswith("=") else name for name in sorted(BACKENDS[backend]))
        raise UsageError(f"{backend} has no option {option!r}; it has {known}")
    if sign:
        limits.parse(name, value, label=f"{option!r}: {name}")


@dataclass(frozen=True, kw_only=True)
class Stages:
    """Seconds of the parts of one query on a device. In trtexec's words: Enqueue Time (the host's, to start the inference), H2D
    Latency, GPU Compute Time and D2H Latency (the device's, by its own clock)."""

    enqueue_s: float
    h2d_s: float
    compute_s: float
    d2h_s: float

    @property
    def host_s(self) -> float:
        """trtexec's Latency, which it called Host Latency before: the sum of the device's three."""
        return self.h2d_s + self.compute_s + self.d2h_s


class Backend(abc.ABC):
    """One loaded model on one device. Not thread-safe: one instance a thread.

    `bind` copies a batch to where the backend runs; `enqueue` starts one inference on it; `synchronize` waits for all
    that were started; `outputs` copies the last answers to host memory. `infer` is the four in order.
    """

    candidate: Candidate
    input_spec: TensorSpec
    output_names: tuple[str, ...]
    max_batch: int | None = None  # the largest that the loaded file takes, where that sets a limit
    kept_shapes: int | None = None  # batch sizes that stay ready to run; one more takes time to prepare
    _lanes: Lanes | None = None  # the streams of a backend on a GPU
    spin_wait: bool = True  # whether the host asks a device again and again until it is done, or sleeps

    @abc.abstractmethod
    def bind(self, images: NDArray[Any]) -> None:
        """Put a batch, (N, ...) of the input's dtype and shape, where the backend runs. Raises UsageError."""

    @abc.abstractmethod
    def enqueue(self) -> None:
        """Start one inference of the bound batch."""

    @abc.abstractmethod
    def synchronize(self) -> None:
        """Wait for every inference that was started."""

    @abc.abstractmethod
    def outputs(self) -> Outputs:
        """The answers of the last inference by name, in host memory."""

    @abc.abstractmethod
    def describe(self) -> dict[str, Any]:
        """What really runs: versions, providers, threads."""

    def infer(self, images: NDArray[Any]) -> Outputs:
        """One batch, host to host."""
        self.bind(images)
        self.enqueue()
        self.synchronize()
        return self.outputs()

    def stages(self) -> Stages | None:
        """The parts of one query of the bound batch; None where the device is the host, or has no clock of its own."""
        return None if self._lanes is None else self._lanes.stages()

    def run_queued(self, seconds: float, *, uploads: bool = False, downloads: bool = False) -> tuple[int, float] | None:
        """Queries of the bound batch for some seconds, the next one queued before the last has ended, on all streams.

        uploads, downloads: copy the input, and the answers, with each; without, they stay on the device. Returns how many
        there were and how long they took; None where `stages` does.
        """
        if self._lanes is None:
            return None
        return self._lanes.run_queued(seconds, uploads=uploads, downloads=downloads, spin=self.spin_wait)

    def settings(self) -> dict[str, Any]:
        """How inferences are started, by name: cuda_graph, streams. Empty where there is nothing to choose."""
        return {}

    def profile(self, images: NDArray[Any], runs: int) -> LayerTimes:
        """What each layer takes for a batch, over so many runs after a warm-up, in a session or context of its own: what is
        measured elsewhere stays as fast. Raises UsageError where there is no such thing."""
        raise UsageError(f"{self.candidate} has no profile by layer")

    def close(self) -> None:  # noqa: B027 (most backends hold nothing that the garbage collector doesn't free)
        """Free what the backend holds."""

    def check(self, images: NDArray[Any]) -> None:
        """Raise UsageError where a batch is not what the model takes."""
        wanted = self.input_spec
        if images.dtype != np.dtype(wanted.dtype) or images.shape[1:] != wanted.shape[1:] or len(images) == 0:
            raise UsageError(
                f"the model takes {wanted.dtype} [batch, {', '.join(map(str, wanted.shape[1:]))}], "
                f"found {images.dtype} {list(images.shape)}"
            )

    def __enter__(self) -> Backend:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
