"""A CUDA device in host memory, with CUDA's semantics and none of its speed: for tests, and to try what needs a GPU.

    RESNET_DEPLOY_FAKE_CUDA=1 resnet-deploy bench resnet20 --backend eager:cuda,cuda_graph

PyTorch then finds one CUDA device, and ONNX Runtime its CUDA provider; both compute on the CPU, and everything above them is
what runs on a real GPU. What is started on a stream happens when somebody waits for it, as late as a device may do it; until
then its answers are poison (NaN, or a number that nobody meant). Under capture nothing happens at all before a replay.
Memory of the device, pinned memory and other memory are told apart. Every result names the device, and says that no time
means anything. TensorRT does not run on it.

Only what is named by the environment variable, or runs within `device`, is changed by it.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from types import ModuleType

ENVIRONMENT = "RESNET_DEPLOY_FAKE_CUDA"
NAME = "fake CUDA device, no timing means anything"  # whatever a device's name is written to, says it
# What is changed, and by which module here.
_CHANGED = {"torch": "resnet_deploy.backends.fake.torch_cuda", "onnxruntime": "resnet_deploy.backends.fake.onnxruntime"}


def wanted() -> bool:
    """Whether this process, and those that it starts, are to have the fake device."""
    return os.environ.get(ENVIRONMENT, "") not in {"", "0"}


def switch_on() -> None:
    """Give this process the device: at once where the runtimes are loaded, otherwise when they are."""
    for name in _CHANGED:
        if name in sys.modules:
            _changes(name).install()
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


def switch_off() -> None:
    """Take it away again; backends that were loaded on it are to be closed before."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not isinstance(finder, _Finder)]
    for name in _CHANGED:
        if name in sys.modules:
            _changes(name).uninstall()


@contextlib.contextmanager
def device() -> Iterator[None]:
    """The block, and the processes that it starts, have the device."""
    before = os.environ.get(ENVIRONMENT)
    if before == "1":
        yield
        return
    os.environ[ENVIRONMENT] = "1"
    switch_on()
    try:
        yield
    finally:
        switch_off()
        os.environ.pop(ENVIRONMENT)
        os.environ |= {} if before is None else {ENVIRONMENT: before}


class _Finder(importlib.abc.MetaPathFinder):
    """Changes a runtime as soon as it has been imported: who does not import it does not wait for it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        spec = importlib.machinery.PathFinder.find_spec(name, path) if name in _CHANGED else None
        if spec is not None and spec.loader is not None:
            spec.loader.exec_module = _then(spec.loader.exec_module, name)  # type: ignore[method-assign, assignment]
        return spec


def _then(load: Callable[[ModuleType], None], name: str) -> Callable[[ModuleType], None]:
    def exec_module(module: ModuleType) -> None:
        load(module)
        _changes(name).install()

    return exec_module


def _changes(name: str) -> ModuleType:
    return importlib.import_module(_CHANGED[name])
