"""What a backend needs of a CUDA device: buffers, streams, copies, events and graphs, through PyTorch."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.errors import UnavailableError

MOST_HZ = 3e9  # no GPU so far has a higher clock
_TORCH = {
    "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "uint8": torch.uint8, "int8": torch.int8,
    "int32": torch.int32, "int64": torch.int64, "bool": torch.bool,
}  # fmt: skip


class CudaDevice:
    """The current CUDA device."""

    kind = "cuda"  # as PyTorch and ONNX Runtime name where its memory is

    @property
    def name(self) -> str:
        """As the driver has it."""
        return str(torch.cuda.get_device_name())

    def free_bytes(self) -> int:
        """Memory that can be had: the device's, and what PyTorch keeps for later."""
        free, _ = torch.cuda.mem_get_info()
        return int(free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated())

    def empty(self, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        """Device memory. Raises torch.cuda.OutOfMemoryError."""
        return torch.empty(shape, dtype=_TORCH[dtype], device="cuda")

    def pinned(self, shape: tuple[int, ...], dtype: str) -> torch.Tensor:
        """Host memory that copies run from and to at full speed, and beside computation."""
        return torch.empty(shape, dtype=_TORCH[dtype], pin_memory=True)

    def stream(self) -> Any:
        return torch.cuda.Stream()

    def run(self, work: Callable[[], None], stream: Any) -> None:
        """Start what PyTorch does in `work` on a stream."""
        with torch.cuda.stream(stream):
            work()

    def copy(self, target: torch.Tensor, source: torch.Tensor, stream: Any) -> None:
        """Start a copy on a stream."""
        self.run(lambda: target.copy_(source, non_blocking=True), stream)  # type: ignore[arg-type, return-value]

    def fill(self, staging: torch.Tensor, images: NDArray[Any]) -> None:
        """Copy a batch into pinned memory, on all of PyTorch's threads."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an array that is read-only is only read
            staging.copy_(torch.from_numpy(np.ascontiguousarray(images)))

    def follow(self, stream: Any, other: Any) -> None:
        """Let a stream wait for what another one has been given so far."""
        stream.wait_stream(other)

    def occupy(self, stream: Any, seconds: float) -> None:
        """Keep a stream busy for some seconds, at its highest clock; longer at a lower one."""
        with torch.cuda.stream(stream):
            torch.cuda._sleep(int(seconds * MOST_HZ))

    def mark(self, stream: Any, *, timed: bool = False, spin: bool = True) -> Any:
        """A CUDA event behind what a stream has been given. timed: whether `seconds` may ask it; spin: how it is waited for."""
        event = torch.cuda.Event(enable_timing=timed, blocking=not spin)
        event.record(stream)
        return event

    def seconds(self, begin: Any, end: Any) -> float:
        """Between two timed marks that have been reached, by the device's clock (0.5 µs)."""
        return float(begin.elapsed_time(end)) / 1e3

    @contextlib.contextmanager
    def annotate(self, name: str) -> Iterator[None]:
        """An NVTX range, which Nsight Systems shows above the kernels that are started in it; without it this is a call that
        does nothing."""
        torch.cuda.nvtx.range_push(name)
        try:
            yield
        finally:
            torch.cuda.nvtx.range_pop()

    def wait(self, stream: Any, *, spin: bool = True) -> None:
        """Until a stream is done. spin: ask again and again, as CUDA does by default; otherwise sleep until an interrupt."""
        if spin:
            stream.synchronize()
        else:
            self.mark(stream, spin=False).synchronize()

    def capture(self, run: Callable[[], None], stream: Any) -> Callable[[], None]:
        """What `run` starts on the stream, as a CUDA graph: returns what starts it again."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            run()

        def replay() -> None:
            with torch.cuda.stream(stream):
                graph.replay()

        return replay


def cuda_device(candidate: Candidate) -> CudaDevice:
    """The device that a candidate runs on. Raises UnavailableError where PyTorch sees none."""
    if not torch.cuda.is_available():
        raise UnavailableError(f"{candidate} needs a CUDA device; torch {torch.__version__} sees none")
    return CudaDevice()


def dtype_name(tensor: torch.Tensor) -> str:
    """numpy's name of a tensor's type, and `bfloat16`."""
    return str(tensor.dtype).removeprefix("torch.")


def to_numpy(tensor: torch.Tensor) -> NDArray[Any]:
    """A copy of host memory as an array; BF16 as float32, which numpy has no name for."""
    return np.array((tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy())
