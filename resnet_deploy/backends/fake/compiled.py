"""torch.compile on the fake device: Dynamo traces the network, and its graph is one kernel."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from resnet_deploy.backends.fake import tensors


def compile_model(real: Callable[..., Any], suspended: Callable[[], AbstractContextManager[None]]) -> Callable[..., Any]:
    """torch.compile, which gives a network on the device to Dynamo as a network on the CPU.

    No code is generated for it: there is no machine that could run code for this device. suspended: PyTorch without it.
    """

    def compile_(model: torch.nn.Module, **options: Any) -> Any:
        parameters = model.parameters() if isinstance(model, torch.nn.Module) else ()
        if not any(isinstance(parameter, tensors.DeviceTensor) for parameter in parameters):
            return real(model, **options)
        beneath = _beneath(model)
        with suspended():
            traced = real(beneath, backend="eager", dynamic=options.get("dynamic"))
            empty = copy.deepcopy(beneath).to("meta")

        def run(*inputs: Any) -> Any:
            plain = tensors.unwrapped(inputs)
            with torch.inference_mode():
                like = empty(*(tensors.bare(value) for value in plain))

            def kernel() -> Any:
                with suspended():
                    return traced(*plain)

            return tensors.computed(like, kernel)

        return run

    return compile_


def _beneath(model: torch.nn.Module) -> torch.nn.Module:
    """The network over the same memory, as the CPU has it."""
    memo: dict[int, Any] = {}
    for module in model.modules():
        for own, values in ((True, module._parameters), (False, module._buffers)):
            for value in values.values():
                if isinstance(value, tensors.DeviceTensor):
                    plain = value.memory
                    memo[id(value)] = torch.nn.Parameter(plain, requires_grad=False) if own else plain
    return copy.deepcopy(model, memo)
