"""Residual networks from PyTorch to ONNX and TensorRT engines that can be trusted.

Every name here is loaded when it is first used: importing the package imports neither torch nor onnx.
"""

from __future__ import annotations

import importlib
import os
import warnings
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from resnet_deploy.backends.table import register_backend as register_backend
    from resnet_deploy.benchmarking.report import BenchReport as BenchReport
    from resnet_deploy.benchmarking.run import bench as bench
    from resnet_deploy.bundle.store import Bundle as Bundle
    from resnet_deploy.errors import BackendError as BackendError
    from resnet_deploy.errors import BundleError as BundleError
    from resnet_deploy.errors import CalibrationError as CalibrationError
    from resnet_deploy.errors import CheckpointError as CheckpointError
    from resnet_deploy.errors import ConflictError as ConflictError
    from resnet_deploy.errors import DataError as DataError
    from resnet_deploy.errors import DeployError as DeployError
    from resnet_deploy.errors import EngineError as EngineError
    from resnet_deploy.errors import ExportError as ExportError
    from resnet_deploy.errors import GraphError as GraphError
    from resnet_deploy.errors import IntegrityError as IntegrityError
    from resnet_deploy.errors import MissingPackageError as MissingPackageError
    from resnet_deploy.errors import OutputError as OutputError
    from resnet_deploy.errors import PrecisionError as PrecisionError
    from resnet_deploy.errors import RepositoryError as RepositoryError
    from resnet_deploy.errors import ServingError as ServingError
    from resnet_deploy.errors import StorageError as StorageError
    from resnet_deploy.errors import TuningError as TuningError
    from resnet_deploy.errors import UnavailableError as UnavailableError
    from resnet_deploy.errors import UsageError as UsageError
    from resnet_deploy.graph.describe import GraphReport as GraphReport
    from resnet_deploy.models.catalogue import ArchitectureSummary as ArchitectureSummary
    from resnet_deploy.models.catalogue import describe_models as describe_models
    from resnet_deploy.models.create import create_model as create_model
    from resnet_deploy.models.registry import list_models as list_models
    from resnet_deploy.models.registry import register_architecture as register_architecture
    from resnet_deploy.parity.metrics import ParityReport as ParityReport
    from resnet_deploy.pipeline.build import Plan as Plan
    from resnet_deploy.pipeline.build import build as build
    from resnet_deploy.pipeline.compare_layers import Divergence as Divergence
    from resnet_deploy.pipeline.compare_layers import compare_layers as compare_layers
    from resnet_deploy.pipeline.doctor import Finding as Finding
    from resnet_deploy.pipeline.doctor import doctor as doctor
    from resnet_deploy.pipeline.export import export as export
    from resnet_deploy.pipeline.inspect import PlanDetails as PlanDetails
    from resnet_deploy.pipeline.inspect import inspect as inspect
    from resnet_deploy.pipeline.tune import tune as tune
    from resnet_deploy.pipeline.verify import Verdict as Verdict
    from resnet_deploy.pipeline.verify import verify as verify
    from resnet_deploy.precision.tune import Tuning as Tuning
    from resnet_deploy.precisions import register_precision as register_precision
    from resnet_deploy.reporting.compare import RunComparison as RunComparison
    from resnet_deploy.reporting.recorded import load_report as load_report
    from resnet_deploy.reporting.writing import compare_runs as compare_runs
    from resnet_deploy.reporting.writing import report as report
    from resnet_deploy.reporting.writing import write_report as write_report
    from resnet_deploy.serving.cpp.write import Project as Project
    from resnet_deploy.serving.cpp.write import write_cpp as write_cpp
    from resnet_deploy.serving.embedding.job import Embedding as Embedding
    from resnet_deploy.serving.embedding.run import embed as embed
    from resnet_deploy.serving.triton.write import Repository as Repository
    from resnet_deploy.serving.triton.write import write_triton as write_triton

__version__ = "0.1.0"

# What each module gives; errors.py its whole tree.
_NAMES = {
    "backends.table": ("register_backend",),
    "benchmarking.report": ("BenchReport",),
    "benchmarking.run": ("bench",),
    "bundle.store": ("Bundle",),
    "errors": (
        "BackendError", "BundleError", "CalibrationError", "CheckpointError", "ConflictError", "DataError", "DeployError",
        "EngineError", "ExportError", "GraphError", "IntegrityError", "MissingPackageError", "OutputError", "PrecisionError",
        "RepositoryError", "ServingError", "StorageError", "TuningError", "UnavailableError", "UsageError",
    ),
    "graph.describe": ("GraphReport",),
    "models.catalogue": ("ArchitectureSummary", "describe_models"),
    "models.create": ("create_model",),
    "models.registry": ("list_models", "register_architecture"),
    "parity.metrics": ("ParityReport",),
    "pipeline.build": ("Plan", "build"),
    "pipeline.compare_layers": ("Divergence", "compare_layers"),
    "pipeline.doctor": ("Finding", "doctor"),
    "pipeline.export": ("export",),
    "pipeline.inspect": ("PlanDetails", "inspect"),
    "pipeline.tune": ("tune",),
    "pipeline.verify": ("Verdict", "verify"),
    "precision.tune": ("Tuning",),
    "precisions": ("register_precision",),
    "reporting.compare": ("RunComparison",),
    "reporting.recorded": ("load_report",),
    "reporting.writing": ("compare_runs", "report", "write_report"),
    "serving.cpp.write": ("Project", "write_cpp"),
    "serving.embedding.job": ("Embedding",),
    "serving.embedding.run": ("embed",),
    "serving.triton.write": ("Repository", "write_triton"),
}  # fmt: skip
_MODULES = {name: module for module, names in _NAMES.items() for name in names}
# What some functions were called before; they work, and say what they are called now.
_RENAMED = {"cpp": "write_cpp", "layers": "compare_layers", "triton": "write_triton"}

__all__ = sorted([*_MODULES, "__version__"])

if os.environ.get("RESNET_DEPLOY_FAKE_CUDA", "") not in {"", "0"}:
    importlib.import_module(f"{__name__}.backends.fake").switch_on()


def __getattr__(name: str) -> Any:
    if name in _RENAMED:
        warnings.warn(f"resnet_deploy.{name} is called resnet_deploy.{_RENAMED[name]} now", DeprecationWarning, stacklevel=2)
        name = _RENAMED[name]
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return list(__all__)
