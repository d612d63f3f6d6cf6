"""Whether a plan can run here, before any of it is given to TensorRT: deserialising a plan runs native code."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta

from resnet_deploy.engine import rtx
from resnet_deploy.engine.flavours import (
    FLAVOURS,
    TENSORRT,
    TENSORRT_LEAN,
    TENSORRT_RTX,
    Flavour,
    Log,
    gpu,
    make_log,
    native_error,
    no_device,
    version_tuple,
)
from resnet_deploy.errors import EngineError, UnavailableError, UsageError
from resnet_deploy.specs import to_dict

if TYPE_CHECKING:  # the signatures of each package in turn: tests/typing
    from tensorrt_types import ICudaEngine, Runtime, TensorRt

# The first four bytes of a plan, by the package that wrote it; its version is at offset 24. Those of TensorRT are what
# `trtexec --getPlanVersionOnly` reads; TensorRT-RTX's are not documented, and serve to name a foreign file, not to judge it.
PLAN_TAG = b"ftrt"
_MAGIC = {PLAN_TAG: "tensorrt", b"vtrt": "tensorrt-rtx"}
_VERSION_AT = 24
HEADER_BYTES = _VERSION_AT + 4


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where a plan was built and for what.

    Attributes:
        flavour, version: of the package that built it.
        platform: operating system and processor.
        gpu, compute_capability: of the machine that built it, None without one.
        targets: compute capabilities (sm86) that a TensorRT-RTX plan was built for, () where it is for that GPU.
        version_compatible: whether later versions read it.
        hardware_compatible: with which other GPUs it runs; None for that GPU alone.
    """

    flavour: Annotated[str, Meta(pattern=r"^[a-z][a-z0-9-]{0,30}$(?!\n)")]
    version: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.+ -]{1,64}$(?!\n)")]
    platform: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,64}$(?!\n)")]
    gpu: Annotated[str, Meta(max_length=200)] | None = None
    compute_capability: Annotated[str, Meta(pattern=r"^[0-9]{1,2}\.[0-9]$(?!\n)")] | None = None
    targets: tuple[Annotated[str, Meta(pattern=r"^sm[0-9]{2,3}$(?!\n)")], ...] = ()
    version_compatible: bool = False
    hardware_compatible: Annotated[str, Meta(pattern=r"^[a-z-]{1,40}$(?!\n)")] | None = None

    def to_dict(self) -> dict[str, Any]:
        return to_dict(self)

    @property
    def built_for(self) -> str:
        """A short name of the GPUs that it runs on, for the plan's file name."""
        return "-".join(self.targets) or re.sub(r"[^a-z0-9]+", "-", (self.gpu or "unknown").lower()).strip("-")

    def __str__(self) -> str:
        where = f"{', '.join(self.targets)}" if self.targets else f"{self.gpu} (sm{_digits(self.compute_capability)})"
        return f"{self.flavour} {self.version} for {where} on {self.platform}"


def here(flavour: Flavour) -> Origin:
    """This machine, as a plan's origin: what a plan that is built now would have."""
    name, capability = gpu() or (None, None)
    return Origin(
        flavour=flavour.name, version=flavour.version or "not installed",
        platform=f"{platform.system()}-{platform.machine()}", gpu=name, compute_capability=capability,
    )  # fmt: skip


def is_for(plan: Origin, flavour: Flavour) -> bool:
    """Whether a plan is of the kind that a package runs: the lean runtime runs version-compatible ones of TensorRT."""
    return plan.flavour == flavour.plans_of and (plan.version_compatible or flavour is not TENSORRT_LEAN)


def preflight(plan: Origin, machine: Origin) -> None:
    """Check that a plan can run on a machine, before it is loaded.

    Args:
        plan: where it was built.
        machine: as `here` gives it.

    Raises:
        UnavailableError: it cannot; the message says what it was built with, what was found, and what to do.
        UsageError: it is not of the kind that the machine's package runs.
    """
    flavour = FLAVOURS[machine.flavour]
    if not is_for(plan, flavour):
        kind = " version-compatible" if flavour is TENSORRT_LEAN else ""
        raise UsageError(
            f"{flavour.name} runs{kind} plans of {flavour.plans_of} alone, and this one was built with {plan}"
            f"{'' if plan.version_compatible else ', not to be version-compatible' if kind else ''}. Build it with "
            f"`resnet-deploy build DIR {flavour.build_options}`"
        )
    flavour.load()
    if machine.gpu is None:
        raise no_device(f"a plan of {plan} cannot run here")
    wrong = []
    if not version_fits(plan, machine.version):
        wrong.append(f"{machine.flavour} {machine.version}")
    if plan.platform != machine.platform:
        wrong.append(machine.platform)
    if not _gpu_fits(plan, machine):
        wrong.append(f"{machine.gpu} (sm{_digits(machine.compute_capability)})")
    if wrong:
        raise UnavailableError(
            f"the plan was built with {plan}; found {', '.join(wrong)}. Build it again here with `resnet-deploy build DIR "
            f"{flavour.build_options}`, or install what it was built with"
        )


def version_fits(plan: Origin, version: str) -> bool:
    """Whether a version of a package can run a plan: the one that built it, and for a version-compatible plan of TensorRT
    later ones too, of 10 also 11.

    https://docs.nvidia.com/deeplearning/tensorrt/11.4.1/getting-started/support-matrix.html
    https://docs.nvidia.com/deeplearning/tensorrt-rtx/latest/inference-library/engine-compatibility.html

    Args:
        plan: where it was built.
        version: of the package that is to run it.

    Returns:
        True or False.
    """
    if plan.version == version:
        return True
    old, new = version_tuple(plan.version), version_tuple(version)
    if plan.flavour != TENSORRT.name or not plan.version_compatible or not old or not new or new < old:
        return False
    return new[0] == old[0] or (old[0], new[0]) == (10, 11)


def _gpu_fits(plan: Origin, machine: Origin) -> bool:
    if plan.targets:
        return f"sm{_digits(machine.compute_capability)}" in plan.targets
    if plan.hardware_compatible == "ampere-plus":
        return version_tuple(machine.compute_capability or "") >= (8, 0)
    if plan.hardware_compatible == "same-compute-capability" or plan.flavour != TENSORRT.name:
        return plan.compute_capability == machine.compute_capability
    return plan.gpu == machine.gpu


def _digits(capability: str | None) -> str:
    return (capability or "?").replace(".", "")


def identify(path: Path) -> str | None:
    """What wrote a file that looks like a plan, such as `tensorrt-rtx 1.7.1.116`; None for anything else."""
    with path.open("rb") as file:
        head = file.read(HEADER_BYTES)
    name = _MAGIC.get(head[:4])
    return None if name is None or len(head) < HEADER_BYTES else f"{name} {'.'.join(map(str, head[_VERSION_AT:]))}"


def check_supported(machine: Origin) -> None:
    """Raise UnavailableError where a package has no kernels for a machine's GPU: TensorRT-RTX names those that it has."""
    if machine.flavour != TENSORRT_RTX.name or machine.gpu is None:
        return
    known, target = rtx.targets(TENSORRT_RTX.load()), f"sm{_digits(machine.compute_capability)}"
    if known and target not in known:
        raise UnavailableError(
            f"{machine.flavour} {machine.version} does not support {machine.gpu} ({target}): it has {', '.join(known)}. "
            "Use TensorRT there, or ONNX Runtime"
        )


def deserialize(path: Path, flavour: Flavour, *, host_code: bool = False) -> tuple[TensorRt, ICudaEngine]:
    """Load a trusted plan: reading one runs native code.

    Args:
        path: of the plan.
        flavour: which package loads it.
        host_code: whether the plan may bring code of its own for the CPU, which a version-compatible one does: its own runtime.

    Returns:
        The package and the engine.

    Raises:
        UnavailableError: there is no GPU that can run it.
        EngineError: the file is damaged, or of another version.
    """
    data = path.read_bytes()
    if not data:
        raise EngineError(f"{path} is empty; build it again")
    trt = flavour.load()
    if flavour.plans_of == TENSORRT.name and (len(data) < HEADER_BYTES or not data.startswith(PLAN_TAG)):
        raise EngineError(f"{path} is no plan of TensorRT: it does not begin as one. Build it again")
    log, what = make_log(trt), f"{flavour.name} {flavour.version} cannot load {path}"
    runtime = start_runtime(trt, flavour, log, what)
    if host_code:
        runtime.engine_host_code_allowed = True
    if flavour is TENSORRT_RTX:
        rtx.check_validity(trt, runtime, data, path)
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise native_error(log, what)
    return trt, engine


def check_runtime(flavour: Flavour) -> None:
    """Raise UnavailableError or EngineError where a package's runtime does not start here."""
    trt = flavour.load()
    start_runtime(trt, flavour, make_log(trt), f"{flavour.name} {flavour.version} does not start")


def start_runtime(trt: TensorRt, flavour: Flavour, log: Log, what: str) -> Runtime:
    """The runtime of a package. what: for the message of the error, UnavailableError or EngineError, where there is none."""
    if flavour is TENSORRT_LEAN and gpu() is None:
        # Not left to the package: without a driver its runtime is a pointer to nowhere, which crashes.
        raise no_device(what)
    runtime = trt.Runtime(log)
    if not runtime:
        raise native_error(log, what)
    return runtime
