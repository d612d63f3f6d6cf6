"""PyTorch's profiler: operators under the modules that called them."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from resnet_deploy.backends.layers import WARM_UPS, LayerTime, LayerTimes, median, precision

_MARK = "resnet_deploy:"  # what follows is a module's name
# What torch.compile puts around its kernels.
_WRAPPER = re.compile(r"TorchDynamo|Torch-Compiled|Pregraph|AOTDispatcher|## Call CompiledFxGraph|PrologueFusion|cu(da)?[A-Z]")


def profile_modules(run: Callable[[], None], network: torch.nn.Module | None, runs: int, device: str) -> LayerTimes:
    """What each operator takes under the module that called it; `run` is one inference, waited for.

    network: whose modules are told apart; None for a compiled one, whose kernels belong to several. The time is an operator's
    own on the CPU, and that of the kernels that it started on CUDA. precision: of what the module reads.
    """
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == "cuda")
    walls_s: list[float] = []
    elements: dict[str, str] = {}
    with _marked(network, elements), _quiet(), profile(activities=activities) as profiler:
        for _ in range(WARM_UPS + runs):
            start = time.perf_counter()
            with record_function(_MARK):
                run()
            walls_s.append(time.perf_counter() - start)
    times_s = _times_s(profiler.events(), device == "cuda", WARM_UPS + runs, apart=network is None)
    operators = Counter(module for module, _, _ in times_s)
    inner = {name.rpartition(".")[0] for name in elements}
    layers = []
    for (module, kind, turn), values_s in times_s.items():
        alone = module and operators[module] == 1 and module not in inner
        element = elements.get(module)
        layers.append(
            LayerTime(
                name=module if alone else f"{module}.{kind}".lstrip(".") + (f" {turn + 1}" if network is None else ""),
                kind="fused" if "_fused_" in kind else kind,
                time_s=median(values_s),
                precision=None if element is None else precision(element, kind),
            )
        )
    return LayerTimes(layers=tuple(layer for layer in layers if layer.time_s > 0), wall_s=median(walls_s))


@contextlib.contextmanager
def _marked(network: torch.nn.Module | None, elements: dict[str, str]) -> Iterator[None]:
    """Modules tell the profiler when they run, and `elements` what they read, until the block ends."""
    handles = []
    for name, module in network.named_modules() if network is not None else ():
        if name:
            enter, leave = _hooks(_shown(name), elements)
            handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hooks(name: str, elements: dict[str, str]) -> tuple[Callable[..., None], Callable[..., None]]:
    marks: list[Any] = []

    def enter(module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
        if isinstance(inputs[0], torch.Tensor):
            elements[name] = str(inputs[0].dtype).removeprefix("torch.")
        marks.append(record_function(_MARK + name))
        marks[-1].__enter__()

    def leave(module: torch.nn.Module, inputs: Any, output: Any) -> None:
        marks.pop().__exit__(None, None, None)

    return enter, leave


def _shown(name: str) -> str:
    """A module's name as the graph's nodes and the checkpoint have it."""
    return name.removeprefix("network.")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the lines that PyTorch's tracer writes to standard error when it starts."""
    name = "KINETO_LOG_LEVEL"
    before = os.environ.setdefault(name, "99")
    try:
        yield
    finally:
        if before == "99":
            os.environ.pop(name, None)


def _times_s(events: Iterable[Any], cuda: bool, runs: int, apart: bool) -> dict[tuple[str, str, int], list[float]]:
    """Seconds of each run by module, operator and, where they are to be told apart, which of its calls, in order."""
    times_s: dict[tuple[str, str, int], list[float]] = {}
    run, calls = -1, Counter[tuple[str, str]]()
    on_host = [event for event in events if event.device_type == torch.autograd.DeviceType.CPU]
    for event in sorted(on_host, key=lambda event: (event.time_range.start, -event.time_range.end)):
        if event.name == _MARK:
            run, calls = run + 1, Counter()
        module = _module(event)
        if module is None:
            continue
        spent_us = [(event.name, event.device_time_total if cuda else event.cpu_time_total)]
        if _WRAPPER.match(event.name):  # kernels that no operator started
            spent_us = [(kernel.name, kernel.duration) for kernel in event.kernels] if cuda else []
        for name, time_us in spent_us:
            kind = re.sub(r"^\w+::|^graph_\d+_|_$", "", name)
            times_s.setdefault((module, kind, calls[module, kind]), [0.0] * runs)[run] += time_us / 1e6
            calls[module, kind] += apart
    return times_s


def _module(event: Any) -> str | None:
    """The module that an operator was called by; None for what is inside another operator, or is none."""
    above = event.cpu_parent
    if event.name.startswith(_MARK):
        return None
    while above is not None and _WRAPPER.match(above.name):
        above = above.cpu_parent
    return str(above.name).removeprefix(_MARK) if above is not None and above.name.startswith(_MARK) else None
