"""A network as PyTorch runs it, on any device: its type, memory format and compilation."""

from __future__ import annotations

import copy
from typing import Any

import torch
from numpy.typing import NDArray

from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.backends.eager.compilers import check_compiler, compile_network
from resnet_deploy.backends.eager.trace import profile_modules
from resnet_deploy.backends.layers import LayerTimes
from resnet_deploy.models.deploy import DeployModel
from resnet_deploy.specs import InputFormat, Precision

# Of this process, before any backend of fewer sets torch's own number, which is one for all.
_ALL_THREADS = torch.get_num_threads()


def set_threads(threads: int | None) -> int:
    """Let torch use so many threads of the CPU, all that it started with where None; returns how many."""
    count = threads or _ALL_THREADS
    torch.set_num_threads(count)
    return count


class EagerNetwork:
    """A DeployModel prepared as a candidate says.

    FP16 and BF16 convert the network alone: input normalization and the head stay FP32.

    Args:
        model: the network with its normalization and head; it is left as it is.
        candidate: its precision and options.
        device: where PyTorch puts it.
    """

    def __init__(self, model: DeployModel, candidate: Candidate, device: str) -> None:
        check_compiler(candidate)
        self.output_names = model.output_names
        self._channels_last = "channels_last" in candidate.options
        # Pixels are NHWC already; their permuted view has the channels-last strides.
        self.reorders = self._channels_last and model.input_format is InputFormat.FLOAT
        self._model = self._prepare(model, candidate, device)
        self._options = candidate.options
        self._run = compile_network(self._model, candidate.options)

    def _prepare(self, model: DeployModel, candidate: Candidate, device: str) -> DeployModel:
        if candidate == Candidate(backend=candidate.backend):
            return model  # the reference as it is, without a copy of the weights
        prepared = copy.deepcopy(model)
        if candidate.precision is not Precision.FP32:
            prepared.network.to(getattr(torch, candidate.precision.row.element))
        if self._channels_last:
            prepared.network.to(memory_format=torch.channels_last)
        prepared.to(device)
        return prepared

    def forward(self, tensor: torch.Tensor | None) -> dict[str, torch.Tensor]:
        """The outputs by name, on the network's device."""
        with torch.inference_mode():
            output = self._run(tensor)
        return dict(zip(self.output_names, output if isinstance(output, tuple) else (output,), strict=True))

    def profile(self, images: NDArray[Any], runs: int) -> LayerTimes:
        """By PyTorch's profiler, operators by module; kernels where the network is compiled (on a CPU once more, so that each
        can be told). A CUDA graph is left out: its kernels are launched one by one."""
        tensor = torch.from_numpy(images).to(next(self._model.parameters()).device)
        if self.reorders:
            tensor = tensor.contiguous(memory_format=torch.channels_last)
        called, compiled = self._run, self._run is not self._model
        if compiled and tensor.device.type == "cpu":
            called = compile_network(self._model, self._options, **{"cpp.enable_kernel_profile": True})

        def run() -> None:
            with torch.inference_mode():
                called(tensor)
            if tensor.device.type == "cuda":
                torch.cuda.synchronize()

        run()
        return profile_modules(run, None if compiled else self._model, runs, tensor.device.type)
