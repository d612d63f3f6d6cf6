"""The interface of every backend."""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.backends.layers import LayerTimes
from resnet_deploy.errors import UsageError
from resnet_deploy.specs import TensorSpec

Outputs = Mapping[str, NDArray[Any]]


@dataclass(frozen=True, kw_only=True)
class Stages:
    """The parts of one query on a device, in seconds; each has a name of trtexec's.

    Attributes:
        enqueue_s: the host's part in starting the inference (Enqueue Time).
        h2d_s: the copy of the images to the device, by its clock (H2D Latency).
        compute_s: the inference, by the device's clock (GPU Compute Time).
        d2h_s: the copy of the answers back, by the device's clock (D2H Latency).
    """

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

    Attributes:
        candidate: what was asked for.
        input_spec: name, dtype and shape of the input.
        output_names: of the model's outputs, in order.
        max_batch: the largest batch that the loaded file takes, None where the file sets no limit.
        kept_shapes: how many batch sizes stay ready to run, None for all; one more takes time to prepare.
        spin_wait: whether the host waits for the device by polling it (True) or by sleeping.
    """

    candidate: Candidate
    input_spec: TensorSpec
    output_names: tuple[str, ...]
    max_batch: int | None = None  # the largest that the loaded file takes, where that sets a limit
    kept_shapes: int | None = None  # batch sizes that stay ready to run; one more takes time to prepare
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

    def summary(self) -> str:
        """Where it runs, in a few words for `doctor`."""
        return f"runs on {self.candidate.device}"

    def infer(self, images: NDArray[Any]) -> Outputs:
        """One batch, host to host."""
        self.bind(images)
        self.enqueue()
        self.synchronize()
        return self.outputs()

    def runnable_batch(self, images: int) -> int:
        """The batch size in which so many images are run: theirs, or the next one that the loaded file holds, its largest where
        there are more."""
        return min(images, self.max_batch or images)

    def infer_any(self, images: NDArray[Any]) -> Outputs:
        """A batch of any size, host to host: in several inferences, or filled up with its last image, where the loaded file
        holds certain batch sizes alone.

        Args:
            images: (N, ...) of the input's dtype and shape.

        Returns:
            Arrays by output name, each (N, ...).
        """
        parts: list[dict[str, NDArray[Any]]] = []
        start = 0
        while start < len(images) or not parts:
            size = self.runnable_batch(len(images) - start)
            part = images[start : start + size]
            filled = np.concatenate([part, np.repeat(part[-1:], size - len(part), axis=0)]) if len(part) < size else part
            parts.append({name: values[: len(part)] for name, values in self.infer(filled).items()})
            start += size
        if len(parts) == 1:
            return parts[0]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    def stages(self) -> Stages | None:
        """The parts of one query of the bound batch; None where the device is the host, or has no clock of its own."""
        return None

    def run_queued(self, seconds: float, *, uploads: bool = False, downloads: bool = False) -> tuple[int, float] | None:
        """Run queries of the bound batch for some seconds, on all streams, the next one queued before the last has ended.

        Args:
            seconds: how long to start new queries.
            uploads: copy the input to the device with each query; it stays there without.
            downloads: copy the answers back with each query; they stay on the device without.

        Returns:
            How many queries there were, and how many seconds they took; None where `stages` gives None.
        """
        return None

    def annotate(self, name: str) -> AbstractContextManager[None]:
        """A block that a profiler of the device shows under a name: an NVTX range on a GPU, nothing elsewhere."""
        return contextlib.nullcontext()

    def settings(self) -> dict[str, Any]:
        """How inferences are started, by name: cuda_graph, streams. Empty where there is nothing to choose."""
        return {}

    def profile(self, images: NDArray[Any], runs: int) -> LayerTimes:
        """Measure each layer, in a session or context of its own: what is measured elsewhere stays as fast.

        Args:
            images: a batch, (N, ...) of the input's dtype and shape.
            runs: inferences that are profiled, after a warm-up.

        Returns:
            The time of each layer, and of a whole inference under the profiler.

        Raises:
            UsageError: this backend has no profile by layer.
        """
        raise UsageError(f"{self.candidate} has no profile by layer")

    def close(self) -> None:  # noqa: B027 (most backends hold nothing that the garbage collector doesn't free)
        """Free what the backend holds."""

    def check(self, images: NDArray[Any]) -> None:
        """Raise UsageError where a batch is not what the model takes. FP32 images are rounded for a model that takes FP16."""
        wanted = self.input_spec
        rounded = wanted.dtype == "float16" and images.dtype == np.dtype("float32")
        if (images.dtype != np.dtype(wanted.dtype) and not rounded) or images.shape[1:] != wanted.shape[1:] or len(images) == 0:
            raise UsageError(
                f"the model takes {wanted.dtype} [batch, {', '.join(map(str, wanted.shape[1:]))}], "
                f"found {images.dtype} {list(images.shape)}"
            )

    def __enter__(self) -> Backend:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        self.close()
