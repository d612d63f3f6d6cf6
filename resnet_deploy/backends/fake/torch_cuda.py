"""PyTorch with the fake device: its names in `torch.cuda`, and what makes and moves tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch.autograd.profiler_util import FunctionEvent

from resnet_deploy.backends.fake import NAME, compiled, streams, tensors

_CAPABILITY = (8, 6)
_TO, _PROFILE = torch.Tensor.to, torch.profiler.profile.__init__
_FACTORIES = ("empty", "zeros", "ones", "full", "rand", "randn", "randint", "arange", "tensor")
ranges: list[str] = []  # of NVTX that are open, the innermost last
_before: list[tuple[Any, str, Any]] = []  # what was changed, and how it was


def install() -> None:
    """Change what of PyTorch asks for a CUDA device. Nothing where that is done already, or where there is a real one."""
    if _before or torch.cuda.is_available():
        return
    for name, value in _CUDA.items():
        _change(torch.cuda, name, value)
    for name in _FACTORIES:
        _change(torch, name, tensors.factory(getattr(torch, name)))
    for name, value in {"to": _to, "cuda": _cuda, "pin_memory": _pin_memory, "is_pinned": _is_pinned}.items():
        _change(torch.Tensor, name, value)
    _change(torch, "compile", compiled.compile_model(torch.compile, _suspended))
    _change(torch.cuda, "nvtx", SimpleNamespace(range_push=ranges.append, range_pop=ranges.pop))
    _change(torch._C, "_host_emptyCache", lambda: None)  # a capture begins with it
    _change(torch.version, "cuda", "none: " + NAME)
    # A profiler looks at each launch while its kernel runs, and a kernel's time is the CPU's.
    _change(FunctionEvent, "device_time_total", property(lambda event: event.cpu_time_total))
    _change(torch.profiler.profile, "__init__", _profile)
    streams.blocking.append(torch._C._autograd._profiler_enabled)
    # Parameters change their class when they move, so they are new ones.
    _change(torch.__future__, "_overwrite_module_params_on_conversion", True)


def uninstall() -> None:
    """Put everything back."""
    streams.blocking.clear()
    while _before:
        owner, name, value = _before.pop()
        if value is _before:
            delattr(owner, name)
        else:
            setattr(owner, name, value)


@contextlib.contextmanager
def _suspended() -> Iterator[None]:
    """Without the device while the block runs: what the compiler does on the CPU is to find PyTorch as it was."""
    uninstall()
    try:
        yield
    finally:
        install()


def _change(owner: Any, name: str, value: Any) -> None:
    """Note how a name was: of its own, or inherited (marked by the list itself)."""
    _before.append((owner, name, vars(owner).get(name, _before)))
    setattr(owner, name, value)


def _to(self: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
    """Tensor.to, which may go to the device."""
    if isinstance(self, tensors.DeviceTensor):
        return _TO(self, *args, **kwargs)
    copy = kwargs.pop("copy", False)
    place, dtype, non_blocking, memory_format = torch._C._nn._parse_to(*args, **kwargs)
    if place is None or place.type != "cuda":
        return _TO(self, *args, **kwargs, copy=copy)
    return tensors.to_device(self, dtype or self.dtype, non_blocking, memory_format)


def _cuda(self: torch.Tensor, device: Any = None, non_blocking: bool = False, **_: Any) -> torch.Tensor:
    return self.to("cuda", non_blocking=non_blocking)


def _pin_memory(self: torch.Tensor, device: Any = None) -> torch.Tensor:
    pinned = self.clone()
    tensors.remember(pinned, "pinned")
    return pinned


def _is_pinned(self: torch.Tensor, device: Any = None) -> bool:
    return tensors.is_pinned(self)


def _profile(self: Any, *, activities: Any = None, **kwargs: Any) -> None:
    """Of a profiler, without CUDA's own part."""
    _PROFILE(self, activities=[torch.profiler.ProfilerActivity.CPU], **kwargs)


def _properties(device: Any = None) -> Any:
    major, minor = _CAPABILITY
    return SimpleNamespace(
        name=NAME, total_memory=tensors.MEMORY_BYTES, major=major, minor=minor, multi_processor_count=1, uuid="fake"
    )  # fmt: skip


_CUDA: dict[str, Any] = {
    "Stream": streams.Stream, "Event": streams.Event, "CUDAGraph": streams.CUDAGraph, "stream": streams.use_stream,
    "current_stream": streams.current_stream, "default_stream": streams.default_stream, "set_stream": streams.set_stream,
    "synchronize": streams.synchronize, "is_current_stream_capturing": streams.is_capturing,
    "is_available": lambda: True, "is_initialized": lambda: True, "device_count": lambda: 1, "current_device": lambda: 0,
    # One function each: the compiler keeps a rule for every one of torch.cuda.
    "init": lambda: None, "_lazy_init": lambda: None, "set_device": lambda device: None, "empty_cache": lambda: None,
    "_sleep": lambda cycles: streams.current_stream().start(lambda: None),
    "get_rng_state": lambda device=None: torch.get_rng_state(), "set_rng_state": lambda state, device=None: None,
    "get_device_name": lambda device=None: NAME, "get_device_capability": lambda device=None: _CAPABILITY,
    "get_device_properties": _properties,
    "mem_get_info": lambda device=None: (tensors.MEMORY_BYTES - tensors.allocated_bytes(), tensors.MEMORY_BYTES),
    "memory_allocated": lambda device=None: tensors.allocated_bytes(),
    "memory_reserved": lambda device=None: tensors.allocated_bytes(),
    "max_memory_allocated": lambda device=None: tensors.allocated_bytes(),
}  # fmt: skip
