"""PyTorch on a GPU, with CUDA graphs and streams of ours."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray

from resnet_deploy._deps import version
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.backends.cuda import CudaDevice, cuda_device
from resnet_deploy.backends.eager.compilers import compiler_facts
from resnet_deploy.backends.eager.network import EagerNetwork, set_threads
from resnet_deploy.backends.layers import LayerTimes
from resnet_deploy.backends.streams import Buffers, Stream, StreamBackend
from resnet_deploy.models.deploy import DeployModel
from resnet_deploy.specs import TensorSpec


class EagerStream(Stream):
    """The network on a stream. Its input may be in another layout than the host's: the copy to the device changes it."""

    settling = 3  # cuDNN chooses its kernels before a graph is captured

    def __init__(
        self, device: CudaDevice, network: EagerNetwork, input_spec: TensorSpec, *, captures: bool, searches: bool
    ) -> None:
        super().__init__(device, captures=captures)
        self._network, self._input, self._searches = network, input_spec, searches

    def allocate(self, batch: int) -> Buffers:
        shape, dtype = self._input.of_batch(batch), self._input.dtype
        buffers = Buffers(input=self.device.empty(shape, dtype), staging=self.device.pinned(shape, dtype))
        if self._network.reorders:
            buffers.context = torch.empty_like(buffers.input, memory_format=torch.channels_last)
        return buffers

    def upload(self, handle: Any = None) -> None:
        super().upload(handle)
        buffers = self._bound_buffers()
        if buffers.context is not None:
            self.device.copy(buffers.context, buffers.input, handle or self.handle)

    def execute(self, buffers: Buffers) -> None:
        images = buffers.input if buffers.context is None else buffers.context

        def forward() -> None:
            torch.backends.cudnn.benchmark = self._searches  # of the process: other candidates have it otherwise
            buffers.outputs = self._network.forward(images)

        self.device.run(forward, self.handle)


class EagerCudaBackend(StreamBackend):
    """A DeployModel on the current CUDA device.

    Options beside those on the CPU: cuda_graph, a graph for each shape; graph_copies, one with its copies too; streams=N;
    cudnn_benchmark, which lets cuDNN time its convolutions for each shape and keep the fastest, as
    `torch.backends.cudnn.benchmark`; torch_tensorrt, Torch-TensorRT behind torch.compile. FP32 means FP32: TF32 is switched off
    in matrix products and convolutions.

    Args:
        model: the network with its normalization and head.
        candidate: its precision and options.
        threads: torch's, on the host; its own choice where None.

    Raises:
        UnavailableError: PyTorch sees no CUDA device.
        UsageError: options that contradict each other.
        MissingPackageError: Torch-TensorRT is asked for and is not installed.
    """

    def __init__(self, model: DeployModel, candidate: Candidate, *, threads: int | None = None) -> None:
        device = cuda_device(candidate)
        self.candidate = candidate
        self.input_spec, self.output_names = model.input_spec, model.output_names
        self._threads = set_threads(threads)
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        self.graph_copies = "graph_copies" in candidate.options
        self.cuda_graph = self.graph_copies or "cuda_graph" in candidate.options
        self._network = network = EagerNetwork(model, candidate, device.kind)
        self._searches = "cudnn_benchmark" in candidate.options
        about = {"captures": self.cuda_graph, "searches": self._searches}
        streams = range(candidate.count("streams"))
        self.open_streams(device, [EagerStream(device, network, self.input_spec, **about) for _ in streams])

    def describe(self) -> dict[str, Any]:
        return {
            "torch": version("torch"), "device": "cuda", "threads": self._threads, "gpu": self.device.name,
            "cuda": torch.version.cuda, "tf32": False, "cudnn_benchmark": self._searches,
            **compiler_facts(self.candidate), **self.settings(),
        }  # fmt: skip

    def summary(self) -> str:
        return self.device.name

    def profile(self, images: NDArray[Any], runs: int) -> LayerTimes:
        self.check(images)
        return self._network.profile(images, runs)

    def close(self) -> None:
        super().close()
        torch.cuda.empty_cache()
