"""What is made once in a run of the tests, by whichever of its processes needs it first."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from filelock import FileLock

import resnet_deploy as rd
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.pipeline.export import ExportOptions

if TYPE_CHECKING:
    import onnx

    from resnet_deploy.models.deploy import DeployModel

OF_FP32 = {field.name for field in fields(ExportOptions)}
_run: Path | None = None


def use(factory: pytest.TempPathFactory) -> None:
    """Names the folder of the run; with pytest-xdist, each process has a folder of its own in it."""
    global _run
    base = factory.getbasetemp()
    _run = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


def once(name: str, make: Callable[[Path], object]) -> Path:
    """A path in the folder of the run, made by the first process that asks for it while the others wait."""
    assert _run is not None, "tests/conftest.py names the folder of the run"
    path, done = _run / name, _run / f"{name}.done"
    with FileLock(f"{path}.lock"):
        if not done.exists():
            make(path)
            done.touch()
    return path


def exported(architecture: str, copy: Path | None = None, **options: Any) -> Bundle:
    """A bundle as `rd.export` makes it, for tests of what is done with one.

    Its FP32 graph, which is what takes long, is exported once for all precisions and calibrations.

    Args:
        architecture: As for `rd.export`.
        copy: Where a test that changes the bundle has its own; without it, the bundle is everybody's.
        **options: Of `rd.export`.
    """
    plain = {name: value for name, value in options.items() if name in OF_FP32}

    def make(folder: Path) -> None:
        if plain != options:
            exported(architecture, folder, **plain)
        rd.export(architecture, folder, **options)

    key = hashlib.sha256(repr((architecture, sorted(options.items()))).encode()).hexdigest()[:16]
    path = once(f"bundle-{key}", make)
    return Bundle.open(path if copy is None else Path(shutil.copytree(path, copy)))


def graph(head: str = "logits", input_format: str = "float") -> Path:
    """The small network with a head, as an ONNX file for batches to 8."""
    from resnet_deploy.pipeline.onnx_export import export_onnx
    from tests.helpers.networks import SMALL, deploy  # loads torch, which not every test needs

    def make(path: Path) -> None:
        export_onnx(deploy(SMALL, head, input_format), path, max_batch=8)

    return once(f"{head}-{input_format}.onnx", make)


def traced_once(trace: Callable[..., onnx.ModelProto]) -> Callable[..., onnx.ModelProto]:
    """`onnx_export._trace`, whose answers for a network, a batch and an opset are kept in the folder of the run."""

    import onnx
    import torch

    def traced(model: DeployModel, max_batch: int, opset: int) -> onnx.ModelProto:
        network = model.network
        modules = [(type(module).__qualname__, getattr(module, "config", None)) for module in network.modules()]
        about = (modules, network, model.head, model.input_format, model.preprocessing, max_batch, opset)
        digest = hashlib.sha256(repr(about).encode())
        for name, tensor in network.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.contiguous().flatten().view(torch.uint8).numpy())

        path = once(f"trace-{digest.hexdigest()[:16]}.onnx", lambda path: onnx.save(trace(model, max_batch, opset), path))
        return onnx.load(path)

    return traced
