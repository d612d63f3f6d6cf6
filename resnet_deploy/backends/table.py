"""The table of backends, a row each: what it is called, runs and needs, and where its class is. Imports no runtime."""

from __future__ import annotations

import importlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from resnet_deploy.engine.flavours import TENSORRT, TENSORRT_LEAN, TENSORRT_RTX, Flavour
from resnet_deploy.errors import UsageError
from resnet_deploy.precisions import PRECISIONS

_NAME = re.compile("[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True, kw_only=True)
class Implementation:
    """A backend on one kind of device.

    Attributes:
        where: `module:Class` of a `Backend`, imported when it is used.
        package: whose installed version tells that the backend can run there.
        extra: of resnet-deploy, that installs it; None where nothing needs to be.
        target: whose placement of Q/DQ pairs its kernels take: tensorrt, or cpu (ONNX Runtime's own).
    """

    where: str
    package: str
    extra: str | None = None
    target: str = "tensorrt"


@dataclass(frozen=True, kw_only=True)
class BackendRow:
    """A runtime.

    Attributes:
        name: as `--backend` has it.
        title: what sentences call it; its name where empty.
        package: the import name whose version is told with results.
        runs: network (the PyTorch model; called with it), graph (an ONNX file; called with its path) or plan (of TensorRT;
            called with its path and `origin`). All are called with the candidate, the first two with `threads` too.
        devices: cpu, cuda or both, the default first.
        precisions: those that it has kernels for.
        options: its own; one that ends in `=` takes a number.
        gpu_options: of these, those that contradict `cpu`.
        gpu_implied: of these, those that mean `cuda`.
        target_options: of these, those that take the graph for TensorRT wherever they run.
        trials: what `doctor` tries: the candidate, by its title.
        triton: the platform of Triton that serves its files; None where there is none.
        cpp: whether the C++ library runs its files.
    """

    name: str
    title: str = ""
    package: str
    runs: Literal["network", "graph", "plan"]
    devices: Mapping[str, Implementation]
    precisions: tuple[str, ...]
    options: tuple[str, ...] = ()
    gpu_options: tuple[str, ...] = ()
    gpu_implied: tuple[str, ...] = ()
    target_options: tuple[str, ...] = ()
    trials: Mapping[str, str] = field(default_factory=dict)
    triton: str | None = None
    cpp: bool = False

    def __post_init__(self) -> None:
        if _NAME.fullmatch(self.name) is None:
            raise UsageError(f"a backend's name has lower-case letters, digits and dashes alone; found {self.name!r}")
        if not self.devices or set(self.devices) - {"cpu", "cuda"}:
            raise UsageError(f"the backend {self.name} runs on cpu, cuda or both; found {', '.join(self.devices) or 'none'}")

    @property
    def all_options(self) -> tuple[str, ...]:
        """All that may follow its name in a candidate: devices, precisions and its own options."""
        return (*self.devices, *self.precisions, *self.options)

    def default_device(self, options: Collection[str]) -> str:
        """Where it runs with these options, if no device is named."""
        return "cuda" if set(options) & set(self.gpu_implied) else next(iter(self.devices))

    def target(self, device: str, options: Collection[str]) -> str:
        """Whose placement of Q/DQ pairs the backend takes.

        Args:
            device: cpu or cuda.
            options: the backend's own, as a candidate has them.

        Returns:
            tensorrt or cpu.
        """
        return "tensorrt" if set(options) & set(self.target_options) else self.devices[device].target

    def load(self, device: str) -> Any:
        """Its class for a device, imported now. Raises UsageError where there is none."""
        module, _, name = self.devices[device].where.partition(":")
        return getattr(importlib.import_module(module), name)


_HERE = "resnet_deploy.backends"


def _plans(flavour: Flavour, **more: Any) -> BackendRow:
    """The row of a TensorRT package."""
    where = f"{_HERE}.tensorrt.backend:TensorRtBackend"
    return BackendRow(
        name=flavour.name,
        title=flavour.title,
        package=flavour.package,
        runs="plan",
        devices={"cuda": Implementation(where=where, package=flavour.package, extra=flavour.extra)},
        precisions=("fp32", "fp16", "bf16", "int8", "fp8"),
        # TensorRT-RTX captures by itself, which no other capture may hold.
        options=("no_cuda_graph", "no_runtime_cache" if flavour is TENSORRT_RTX else "graph_copies", "streams="),
        trials={flavour.title: flavour.name},
        cpp=True,
        **more,
    )


_ROWS = (
    BackendRow(
        name="eager",
        title="PyTorch",
        package="torch",
        runs="network",
        devices={
            "cpu": Implementation(where=f"{_HERE}.eager.backend:EagerBackend", package="torch"),
            "cuda": Implementation(where=f"{_HERE}.eager.cuda:EagerCudaBackend", package="torch"),
        },
        precisions=("fp32", "fp16", "bf16"),
        options=(
            "channels_last",
            "compile",
            "max_autotune",
            "freezing",
            "torch_tensorrt",
            "cudnn_benchmark",
            "cuda_graph",
            "graph_copies",
            "streams=",
        ),
        gpu_options=("torch_tensorrt", "cudnn_benchmark", "cuda_graph", "graph_copies", "streams"),
        gpu_implied=("torch_tensorrt", "cudnn_benchmark", "graph_copies"),
        trials={"eager (CPU)": "eager", "eager (CUDA)": "eager:cuda"},
    ),
    BackendRow(
        name="onnxruntime",
        title="ONNX Runtime",
        package="onnxruntime",
        runs="graph",
        devices={
            "cpu": Implementation(
                where=f"{_HERE}.onnxruntime.backend:OrtBackend", package="onnxruntime", extra="cpu", target="cpu"
            ),
            "cuda": Implementation(where=f"{_HERE}.onnxruntime.cuda:OrtCudaBackend", package="onnxruntime-gpu", extra="gpu"),
        },
        precisions=("fp32", "fp16", "int8", "fp8"),
        options=("simulate", "tensorrt", "tf32", "cuda_graph", "prefer_nhwc", "heuristic_search"),
        gpu_options=("tensorrt", "tf32", "cuda_graph", "prefer_nhwc", "heuristic_search"),
        gpu_implied=("tensorrt", "tf32", "prefer_nhwc", "heuristic_search"),
        target_options=("simulate",),  # each Q/DQ pair as it is written, in FP32
        trials={
            "onnxruntime (CPU)": "onnxruntime",
            "onnxruntime (CUDA)": "onnxruntime:cuda",
            "onnxruntime (TensorRT)": "onnxruntime:tensorrt",
        },
        triton="onnxruntime_onnx",
        cpp=True,
    ),
    BackendRow(
        name="openvino",
        title="OpenVINO",
        package="openvino",
        runs="graph",
        devices={"cpu": Implementation(where=f"{_HERE}.openvino:OpenVinoBackend", package="openvino", extra="openvino")},
        precisions=("fp32", "fp16", "bf16", "int8"),
        trials={"OpenVINO (CPU)": "openvino"},
    ),
    _plans(TENSORRT, triton="tensorrt_plan"),
    _plans(TENSORRT_RTX),
    _plans(TENSORRT_LEAN),
)

BACKENDS: dict[str, BackendRow] = {row.name: row for row in _ROWS}


def register_backend(row: BackendRow, *, replace: bool = False) -> None:
    """Add a row to the table of this process, or put another in its place.

    Args:
        row: the backend.
        replace: whether there is one of this name, as where a registered precision is added to those that it runs.

    Raises:
        UsageError: there is one and it is not to be replaced, or a precision is not in the table of precisions.
    """
    if row.name in BACKENDS and not replace:
        raise UsageError(f"there is a backend {row.name!r} already; replace=True puts this one in its place")
    if unknown := [name for name in row.precisions if name not in PRECISIONS]:
        raise UsageError(f"the backend {row.name} has the unknown precision {unknown[0]!r}: register that first")
    BACKENDS[row.name] = row
