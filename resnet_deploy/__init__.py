"""Residual networks from PyTorch to ONNX and TensorRT engines that can be trusted.

Every name here is loaded when it is first used: importing the package imports neither torch nor onnx.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnet_deploy.backends.table import register_backend as register_backend
    from resnet_deploy.benchmarking.report import BenchReport as BenchReport
    from resnet_deploy.benchmarking.run import bench as bench
    from resnet_deploy.bundle.store import Bundle as Bundle
    from resnet_deploy.errors import DeployError as DeployError
    from resnet_deploy.models.create import create_model as create_model
    from resnet_deploy.models.registry import list_models as list_models
    from resnet_deploy.models.registry import register_architecture as register_architecture
    from resnet_deploy.pipeline.build import build as build
    from resnet_deploy.pipeline.compare_layers import layers as layers
    from resnet_deploy.pipeline.doctor import doctor as doctor
    from resnet_deploy.pipeline.export import export as export
    from resnet_deploy.pipeline.inspect import inspect as inspect
    from resnet_deploy.pipeline.tune import tune as tune
    from resnet_deploy.pipeline.verify import verify as verify
    from resnet_deploy.precisions import register_precision as register_precision
    from resnet_deploy.reporting.recorded import load_report as load_report
    from resnet_deploy.reporting.writing import report as report
    from resnet_deploy.reporting.writing import write_report as write_report
    from resnet_deploy.serving.cpp.write import cpp as cpp
    from resnet_deploy.serving.embedding.run import embed as embed
    from resnet_deploy.serving.triton.write import triton as triton

__version__ = "0.1.0"

_WHERE = {
    "BenchReport": "benchmarking.report",
    "Bundle": "bundle.store",
    "DeployError": "errors",
    "bench": "benchmarking.run",
    "build": "pipeline.build",
    "cpp": "serving.cpp.write",
    "create_model": "models.create",
    "doctor": "pipeline.doctor",
    "embed": "serving.embedding.run",
    "export": "pipeline.export",
    "inspect": "pipeline.inspect",
    "layers": "pipeline.compare_layers",
    "list_models": "models.registry",
    "load_report": "reporting.recorded",
    "register_architecture": "models.registry",
    "register_backend": "backends.table",
    "register_precision": "precisions",
    "report": "reporting.writing",
    "triton": "serving.triton.write",
    "tune": "pipeline.tune",
    "verify": "pipeline.verify",
    "write_report": "reporting.writing",
}

__all__ = sorted([*_WHERE, "__version__"])


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
