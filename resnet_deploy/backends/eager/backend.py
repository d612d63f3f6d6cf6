"""PyTorch itself: the reference, and the peer that every artifact is measured against."""

from __future__ import annotations

import copy
from typing import Any

import torch
from numpy.typing import NDArray

from resnet_deploy._deps import version
from resnet_deploy.backends.base import Backend, Candidate, Outputs
from resnet_deploy.backends.cuda import CudaDevice
from resnet_deploy.backends.layers import LayerTimes
from resnet_deploy.backends.streams import Bound, Lane, Lanes
from resnet_deploy.errors import UnavailableError, UsageError
from resnet_deploy.models.deploy import DeployModel
from resnet_deploy.specs import InputFormat, Precision

# Of this process, before any backend of fewer sets torch's own number, which is one for all.
_ALL_THREADS = torch.get_num_threads()


class _Lane(Lane):
    """The network on a stream. Its input may be in another layout than the host's: the copy to the device changes it."""

    settling = 3  # cuDNN chooses its kernels before a graph is captured

    def __init__(self, owner: EagerBackend, device: CudaDevice) -> None:
        super().__init__(device, captures=owner.captures)
        self._owner = owner

    def make(self, batch: int) -> Bound:
        spec = self._owner.input_spec
        shape = (batch, *(int(size) for size in spec.shape[1:]))
        bound = Bound(input=self.device.empty(shape, spec.dtype), staging=self.device.pinned(shape, spec.dtype))
        if self._owner.reorders:
            bound.context = torch.empty_like(bound.input, memory_format=torch.channels_last)
        return bound

    def upload(self) -> None:
        super().upload()
        bound = self._given()
        if bound.context is not None:
            self.device.copy(bound.context, bound.input, self.stream)

    def execute(self, bound: Bound) -> None:
        given = bound.input if bound.context is None else bound.context

        def forward() -> None:
            bound.outputs = dict(zip(self._owner.output_names, self._owner.forward(given), strict=True))

        self.device.run(forward, self.stream)


class EagerBackend(Backend):
    """A DeployModel on CPU or CUDA.

    Options: channels_last memory format; compile, torch.compile's default mode, or with max_autotune its search for the
    fastest kernels; on CUDA cuda_graph, a graph for each shape, and streams=N. FP16 and BF16 convert the network alone: input
    normalization and the head stay FP32. FP32 means FP32: TF32 is switched off in matrix products and convolutions. threads:
    of the CPU, all that torch started with where None. device: for tests. Raises UnavailableError without a CUDA device.
    """

    def __init__(
        self, model: DeployModel, candidate: Candidate, *, threads: int | None = None, device: CudaDevice | None = None
    ) -> None:
        on_cuda, options = candidate.device == "cuda", candidate.options
        if on_cuda and device is None and not torch.cuda.is_available():
            raise UnavailableError(f"{candidate} needs a CUDA device; torch {torch.__version__} sees none")
        streams = candidate.count("streams")
        if not on_cuda and ("cuda_graph" in options or streams > 1):
            raise UsageError(f"{candidate}: CUDA graphs and streams need a CUDA device, as in eager:cuda,cuda_graph")
        self.candidate = candidate
        self.input_spec = model.input_spec
        self.output_names = model.output_names
        self._threads = threads or _ALL_THREADS
        torch.set_num_threads(self._threads)
        if on_cuda:
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.allow_tf32 = False
        self._channels_last = "channels_last" in options
        self.captures = "cuda_graph" in options
        # Pixels are NHWC already; their permuted view has the channels-last strides.
        self.reorders = self._channels_last and model.input_format is InputFormat.FLOAT
        self._model = self._prepare(model, "cpu" if device is not None else candidate.device)
        self._run = _compiled(self._model, options)
        self._input: torch.Tensor | None = None
        self._output: tuple[torch.Tensor, ...] = ()
        self._lanes: Lanes | None = None
        if on_cuda:
            found = device or CudaDevice()
            self._lanes = Lanes(found, [_Lane(self, found) for _ in range(streams)])

    def _prepare(self, model: DeployModel, device: str) -> DeployModel:
        if self.candidate == Candidate(backend="eager"):
            return model  # the reference as it is, without a copy of the weights
        prepared = copy.deepcopy(model)
        if self.candidate.precision is not Precision.FP32:
            prepared.network.to(torch.float16 if self.candidate.precision is Precision.FP16 else torch.bfloat16)
        if self._channels_last:
            prepared.network.to(memory_format=torch.channels_last)
        prepared.to(device)
        return prepared

    def forward(self, tensor: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        """The outputs in order."""
        with torch.inference_mode():
            output = self._run(tensor)
        return output if isinstance(output, tuple) else (output,)

    def bind(self, images: NDArray[Any]) -> None:
        self.check(images)
        if self._lanes is not None:
            self._lanes.bind(images)
            return
        tensor = torch.from_numpy(images)
        self._input = tensor.contiguous(memory_format=torch.channels_last) if self.reorders else tensor

    def enqueue(self) -> None:
        if self._lanes is not None:
            self._lanes.enqueue()
        else:
            self._output = self.forward(self._input)

    def synchronize(self) -> None:
        if self._lanes is not None:
            self._lanes.synchronize(spin=self.spin_wait)

    def outputs(self) -> Outputs:
        if self._lanes is not None:
            return self._lanes.outputs()
        return {name: tensor.numpy() for name, tensor in zip(self.output_names, self._output, strict=True)}

    def settings(self) -> dict[str, Any]:
        return {} if self._lanes is None else {"cuda_graph": self.captures, "streams": len(self._lanes)}

    def describe(self) -> dict[str, Any]:
        found: dict[str, Any] = {"torch": version("torch"), "device": self.candidate.device, "threads": self._threads}
        if torch.cuda.is_available() and self._lanes is not None:
            found |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda, "tf32": False}
        return found | self.settings()

    def profile(self, images: NDArray[Any], runs: int) -> LayerTimes:
        """By PyTorch's profiler, operators by module; kernels where the network is compiled (on a CPU once more, so that each
        can be told). A CUDA graph is left out: its kernels are launched one by one."""
        from resnet_deploy.backends.eager.trace import profile_modules

        self.check(images)
        tensor = torch.from_numpy(images).to(next(self._model.parameters()).device)
        if self._channels_last and self._model.input_format is InputFormat.FLOAT:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        called, compiled = self._run, self._run is not self._model
        if compiled and tensor.device.type == "cpu":
            called = torch.compile(self._model, options={"cpp.enable_kernel_profile": True})

        def run() -> None:
            with torch.inference_mode():
                called(tensor)
            if tensor.device.type == "cuda":
                torch.cuda.synchronize()

        run()
        return profile_modules(run, None if compiled else self._model, runs, tensor.device.type)

    def close(self) -> None:
        self._input, self._output = None, ()
        if self._lanes is not None:
            self._lanes.close()
            torch.cuda.empty_cache()


def _compiled(model: DeployModel, options: tuple[str, ...]) -> Any:
    """CUDA graphs are ours to capture, with or without the compiler's search."""
    if "max_autotune" in options:
        return torch.compile(model, mode="max-autotune-no-cudagraphs", dynamic=False)
    return torch.compile(model) if "compile" in options else model
