"""Optional packages: imported where they are used, and named with their install command where they are missing."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
from types import ModuleType

from resnet_deploy.errors import MissingPackageError

# Distribution names in the order in which they are looked for: one import name can come from several wheels.
DISTRIBUTIONS: dict[str, tuple[str, ...]] = {
    "torch": ("torch",),
    "onnx": ("onnx",),
    "onnxscript": ("onnxscript",),
    "onnxruntime": ("onnxruntime-gpu", "onnxruntime"),
    "tensorrt": ("tensorrt", "tensorrt-cu13", "tensorrt-cu12"),
    "tensorrt_lean_bindings": ("tensorrt-lean-cu13-bindings", "tensorrt-lean-cu12-bindings"),
    "tensorrt_rtx": ("tensorrt-rtx-cu13", "tensorrt-rtx-cu12", "tensorrt-rtx"),
    "openvino": ("openvino",),
    "mlperf_loadgen": ("mlcommons-loadgen",),
    "numpy": ("numpy",),
    "pillow": ("pillow",),
    "pyarrow": ("pyarrow",),
    "ray": ("ray",),
}


def install_command(extra: str) -> str:
    """The exact command that installs an extra of this package."""
    return f'pip install "resnet-deploy[{extra}]"'


def require(name: str, *, extra: str) -> ModuleType:
    """Import a package of an extra.

    Raises MissingPackageError, with the install command, where it is missing or does not load.
    """
    try:
        return importlib.import_module(name)
    except ImportError as exc:
        problem = "is not installed" if isinstance(exc, ModuleNotFoundError) else f"does not load ({exc})"
        raise MissingPackageError(f"{name} {problem}. Install it with: {install_command(extra)}") from exc


def installed(import_name: str) -> dict[str, str]:
    """The installed distributions of a package with their versions, read without importing it."""
    versions = {}
    for distribution in DISTRIBUTIONS.get(import_name, (import_name,)):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[distribution] = importlib.metadata.version(distribution)
    return versions


def version(import_name: str) -> str | None:
    """The installed version of a package; None where it is not installed."""
    return next(iter(installed(import_name).values()), None)


def versions() -> dict[str, str]:
    """The installed versions of every package that can change an answer or a time."""
    installed = {name: version(name) for name in DISTRIBUTIONS}
    return {name: text for name, text in installed.items() if text is not None}
