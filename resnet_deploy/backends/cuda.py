"""What a backend needs of a CUDA device: buffers, streams, copies and graphs, through PyTorch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

_TORCH = {
    "float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16, "uint8": torch.uint8, "int8": torch.int8,
    "int32": torch.int32, "int64": torch.int64, "bool": torch.bool,
}  # fmt: skip


class CudaDevice:
    """The current CUDA device."""

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

    def copy(self, target: torch.Tensor, source: torch.Tensor, stream: Any) -> None:
        """Start a copy on a stream."""
        with torch.cuda.stream(stream):
            target.copy_(source, non_blocking=True)

    def capture(self, run: Callable[[], None], stream: Any) -> Callable[[], None]:
        """What `run` starts on the stream, as a CUDA graph: returns what starts it again."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
            run()

        def replay() -> None:
            with torch.cuda.stream(stream):
                graph.replay()

        return replay


def to_numpy(tensor: torch.Tensor) -> NDArray[Any]:
    """A copy of host memory as an array; BF16 as float32, which numpy has no name for."""
    return np.array((tensor.float() if tensor.dtype is torch.bfloat16 else tensor).numpy())
