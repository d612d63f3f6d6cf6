"""PyTorch on the CPU: the reference, and the peer that every artifact is measured against."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray

from resnet_deploy._deps import version
from resnet_deploy.backends.base import Backend, Outputs
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.backends.eager.compilers import compiler_facts
from resnet_deploy.backends.eager.network import EagerNetwork, set_threads
from resnet_deploy.backends.layers import LayerTimes
from resnet_deploy.errors import UsageError
from resnet_deploy.models.deploy import DeployModel


class EagerBackend(Backend):
    """A DeployModel on the CPU.

    Options: channels_last memory format; compile, torch.compile's default mode, or with max_autotune its search for the
    fastest kernels; with freezing, either takes the weights for constants.

    Args:
        model: the network with its normalization and head.
        candidate: its precision and options.
        threads: all that torch started with where None.

    Raises:
        UsageError: an option needs a GPU.
    """

    def __init__(self, model: DeployModel, candidate: Candidate, *, threads: int | None = None) -> None:
        if "cuda_graph" in candidate.options or candidate.count("streams") > 1:
            raise UsageError(f"{candidate}: CUDA graphs and streams need a CUDA device, as in eager:cuda,cuda_graph")
        self.candidate = candidate
        self.input_spec, self.output_names = model.input_spec, model.output_names
        self._threads = set_threads(threads)
        self._network = EagerNetwork(model, candidate, "cpu")
        self._input: torch.Tensor | None = None
        self._outputs: dict[str, torch.Tensor] = {}

    def bind(self, images: NDArray[Any]) -> None:
        self.check(images)
        tensor = torch.from_numpy(images)
        self._outputs = {}
        self._input = tensor.contiguous(memory_format=torch.channels_last) if self._network.reorders else tensor

    def enqueue(self) -> None:
        self._outputs = self._network.forward(self._input)

    def synchronize(self) -> None:
        """`enqueue` returns when the answer is there."""

    def outputs(self) -> Outputs:
        if not self._outputs:
            raise UsageError("there is no answer yet: call enqueue after bind")
        return {name: tensor.numpy() for name, tensor in self._outputs.items()}

    def describe(self) -> dict[str, Any]:
        facts = {"torch": version("torch"), "device": "cpu", "threads": self._threads}
        return facts | compiler_facts(self.candidate)

    def summary(self) -> str:
        return f"{self._threads} threads"

    def profile(self, images: NDArray[Any], runs: int) -> LayerTimes:
        self.check(images)
        return self._network.profile(images, runs)

    def close(self) -> None:
        self._input, self._outputs = None, {}
