"""PyTorch itself: the reference, and the peer that every artifact is measured against."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray

from resnet_deploy._deps import version
from resnet_deploy.backends.base import Backend, Candidate, Outputs
from resnet_deploy.backends.cuda import CudaDevice
from resnet_deploy.backends.layers import LayerTimes
from resnet_deploy.errors import UnavailableError, UsageError
from resnet_deploy.models.deploy import DeployModel
from resnet_deploy.specs import InputFormat, Precision


@dataclass(frozen=True)
class _Captured:
    """A CUDA graph of one shape, and the memory that it reads and writes."""

    input: torch.Tensor
    output: tuple[torch.Tensor, ...]
    replay: Callable[[], None]


class EagerBackend(Backend):
    """A DeployModel on CPU or CUDA.

    Options: channels_last memory format; compile, torch.compile's default mode; cuda_graph, a graph for each shape. FP16 and
    BF16 convert the network alone: input normalization and the head stay FP32. FP32 means FP32: TF32 is switched off in
    matrix products and convolutions. Raises UnavailableError without a CUDA device.
    """

    def __init__(self, model: DeployModel, candidate: Candidate, *, threads: int | None = None) -> None:
        if candidate.device == "cuda" and not torch.cuda.is_available():
            raise UnavailableError(f"{candidate} needs a CUDA device; torch {torch.__version__} sees none")
        self.candidate = candidate
        self.input_spec = model.input_spec
        self.output_names = model.output_names
        self._device = torch.device(candidate.device)
        self._threads = threads or torch.get_num_threads()
        torch.set_num_threads(self._threads)
        if candidate.device == "cuda":
            torch.backends.cuda.matmul.allow_tf32 = False
            torch.backends.cudnn.allow_tf32 = False
        self._channels_last = "channels_last" in candidate.options
        self._model = self._prepare(model)
        self._run = torch.compile(self._model) if "compile" in candidate.options else self._model
        self._input: torch.Tensor | None = None
        self._output: tuple[torch.Tensor, ...] = ()
        self._graphs: dict[tuple[int, ...], _Captured] | None = None
        if "cuda_graph" in candidate.options:
            if candidate.device != "cuda":
                raise UsageError(f"{candidate}: a CUDA graph needs a CUDA device, as in eager:cuda,cuda_graph")
            self._graphs = {}

    def _prepare(self, model: DeployModel) -> DeployModel:
        if self.candidate == Candidate(backend="eager"):
            return model  # the reference as it is, without a copy of the weights
        prepared = copy.deepcopy(model)
        if self.candidate.precision is not Precision.FP32:
            prepared.network.to(torch.float16 if self.candidate.precision is Precision.FP16 else torch.bfloat16)
        if self._channels_last:
            prepared.network.to(memory_format=torch.channels_last)
        prepared.to(self._device)
        return prepared

    def bind(self, images: NDArray[Any]) -> None:
        self.check(images)
        tensor = torch.from_numpy(images).to(self._device)
        # Pixels are NHWC already; their permuted view has the channels-last strides.
        if self._channels_last and self._model.input_format is InputFormat.FLOAT:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        if self._graphs is not None:
            captured = self._graphs.get(tuple(tensor.shape))
            if captured is None:
                captured = self._graphs[tuple(tensor.shape)] = self._capture(tensor)
            captured.input.copy_(tensor)
            torch.cuda.current_stream().synchronize()  # the graph runs on a stream of its own
            tensor, self._output = captured.input, captured.output
        self._input = tensor

    def _capture(self, tensor: torch.Tensor) -> _Captured:
        device = CudaDevice()
        stream = device.stream()
        static, output = tensor.clone(), ()
        stream.wait_stream(torch.cuda.current_stream())

        def run() -> None:
            nonlocal output
            with torch.cuda.stream(stream):
                output = self._forward(static)

        for _ in range(3):  # cuDNN chooses its kernels before the capture
            run()
        stream.synchronize()
        replay = device.capture(run, stream)
        return _Captured(input=static, output=output, replay=replay)

    def _forward(self, tensor: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        with torch.inference_mode():
            output = self._run(tensor)
        return output if isinstance(output, tuple) else (output,)

    def enqueue(self) -> None:
        if self._graphs is None:
            self._output = self._forward(self._input)
        elif self._input is not None:
            self._graphs[tuple(self._input.shape)].replay()

    def synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize()

    def outputs(self) -> Outputs:
        return {name: tensor.cpu().numpy() for name, tensor in zip(self.output_names, self._output, strict=True)}

    def describe(self) -> dict[str, Any]:
        found: dict[str, Any] = {"torch": version("torch"), "device": str(self._device), "threads": self._threads}
        if self._device.type == "cuda":
            found |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda, "tf32": False}
        return found

    def profile(self, images: NDArray[Any], runs: int) -> LayerTimes:
        """By PyTorch's profiler, operators by module; kernels where the network is compiled (on a CPU once more, so that each
        can be told). A CUDA graph is left out: its kernels are launched one by one."""
        from resnet_deploy.backends.torch_trace import profile_modules

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
        self._input, self._output, self._graphs = None, (), None
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
