"""The packages that build and run plans: `tensorrt` 10 and 11, and `tensorrt_rtx`; and the lean runtime of TensorRT, which
runs some. One is imported where it is used."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from resnet_deploy import _deps
from resnet_deploy.errors import EngineError, MissingPackageError, UnavailableError, UsageError

if TYPE_CHECKING:  # the signatures of each package in turn: tests/typing
    from tensorrt_types import ILogger, TensorRt
else:
    ILogger = object  # which package's it is, is known when one is loaded

T = TypeVar("T")
OLDEST = (10, 13)  # of tensorrt: strongly typed networks with everything that is used here


@dataclass(frozen=True, kw_only=True)
class Flavour:
    """A TensorRT package.

    Attributes:
        name: tensorrt, tensorrt-rtx or tensorrt-lean.
        title: as NVIDIA writes it.
        package: its import name.
        extra: of resnet-deploy, that installs it.
        plans_of: the flavour whose plans it runs.
        build_options: of `resnet-deploy build`, for plans that it runs.
        lacks: options that its builder does not have, each with the reason; None where it has no builder.
    """

    name: str
    title: str
    package: str
    extra: str
    plans_of: str
    build_options: str
    lacks: dict[str, str] | None

    @property
    def version(self) -> str | None:
        """The installed version, read without importing it."""
        return _deps.version(self.package)

    def load(self) -> TensorRt:
        """The imported package. Raises MissingPackageError, or UnavailableError where it is too old."""
        module: Any = _deps.require(self.package, extra=self.extra)
        if self.name == "tensorrt" and version_tuple(module.__version__)[:2] < OLDEST:
            raise UnavailableError(
                f"tensorrt {module.__version__} is too old: {'.'.join(map(str, OLDEST))} or newer is needed. "
                f"Install it with: {_deps.install_command(self.extra)}"
            )
        return module  # type: ignore[no-any-return]


TENSORRT = Flavour(
    name="tensorrt", title="TensorRT", package="tensorrt", extra="gpu", plans_of="tensorrt", build_options="--flavour tensorrt",
    lacks={"compute_capability": "it builds for the GPU that it runs on"},
)  # fmt: skip
TENSORRT_RTX = Flavour(
    name="tensorrt-rtx", title="TensorRT-RTX", package="tensorrt_rtx", extra="rtx", plans_of="tensorrt-rtx",
    build_options="--flavour tensorrt-rtx",
    lacks={
        "hardware_compatible": "its plans name their compute capabilities instead: --compute-capability",
        "version_compatible": "its plans run on the release that built them alone",
        "timing_cache": "it times no kernels when it builds",
        "avg_timing": "it times no kernels when it builds",
    },
)  # fmt: skip
TENSORRT_LEAN = Flavour(
    name="tensorrt-lean", title="TensorRT lean runtime", package="tensorrt_lean_bindings", extra="lean", plans_of="tensorrt",
    build_options="--flavour tensorrt --version-compatible", lacks=None,
)  # fmt: skip
FLAVOURS = {flavour.name: flavour for flavour in (TENSORRT, TENSORRT_RTX, TENSORRT_LEAN)}
BUILDERS = {name: flavour for name, flavour in FLAVOURS.items() if flavour.lacks is not None}


def choose(name: str = "auto") -> Flavour:
    """The flavour that builds, by its name; auto: TensorRT where it is installed and there is a GPU, else TensorRT-RTX.

    Raises UsageError for another name, MissingPackageError where neither is installed.
    """
    if name in BUILDERS:
        return BUILDERS[name]
    if name in FLAVOURS:
        raise UsageError(f"{name} runs plans and builds none: build them with `{FLAVOURS[name].build_options}`")
    if name != "auto":
        raise UsageError(f"unknown flavour {name!r}; choose auto, {', '.join(BUILDERS)}")
    installed = [flavour for flavour in BUILDERS.values() if flavour.version is not None]
    if not installed:
        commands = " or ".join(_deps.install_command(flavour.extra) for flavour in BUILDERS.values())
        raise MissingPackageError(f"neither tensorrt nor tensorrt_rtx is installed. Install one with: {commands}")
    if installed[0] is TENSORRT and len(installed) > 1 and gpu() is None:
        return TENSORRT_RTX  # the one that builds without a GPU
    return installed[0]


def gpu() -> tuple[str, str] | None:
    """Name and compute capability (`8.6`) of the current GPU; None without one that PyTorch can use."""
    try:  # without a driver there is none, and importing torch to hear that takes seconds
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return torch.cuda.get_device_name(), f"{major}.{minor}"


def version_tuple(text: str) -> tuple[int, ...]:
    """The leading numbers of a version: 10.13.3.9.post1 → (10, 13, 3, 9)."""
    numbers = []
    for part in text.split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)


class Log(ILogger):
    """A logger that keeps what it is told: TensorRT's reasons, and its report, are log messages."""

    def __init__(self) -> None:
        super().__init__()
        # The severity as it comes: asking 8,000 for their names takes 3 % of a build.
        self.messages: list[tuple[ILogger.Severity, str]] = []

    def log(self, severity: ILogger.Severity, message: str) -> None:
        self.messages.append((severity, message))


def make_log(trt: TensorRt) -> Log:
    """The logger for a package."""
    return derive(Log, trt.ILogger)


def derive(ours: type[T], interface: type) -> T:
    """An instance of a class of ours that a package calls back: it must derive from the package's own interface."""
    return type(ours.__name__, (ours, interface), {})()  # type: ignore[no-any-return]


def errors_of(log: Log) -> str:
    """What a package said went wrong, without the places in its sources; the first reasons are the real ones."""
    reasons = [_plain(message) for severity, message in log.messages if severity.name in {"ERROR", "INTERNAL_ERROR"}]
    return "; ".join(list(dict.fromkeys(reasons))[:2]) or "it gave no reason"


def _plain(message: str) -> str:
    """IBuilder::build...: Error Code 1: Myelin ([pass.cpp:1: f] Cannot ... In g at /src/x.cpp:3 (f)) → Cannot ..."""
    text = message.split("Error Code", 1)[-1].partition("(")[2] or message
    text = text.split(" In ", 1)[0].strip()
    if text.startswith("["):
        text = text.partition("] ")[2] or text
    return text.rstrip(" .):")


def native_error(log: Log, what: str) -> EngineError | UnavailableError:
    """The exception for a call that gave nothing: a missing or old driver, memory, or the package's own reason."""
    reasons = " ".join(message for _, message in log.messages)
    if "cudaError 35" in reasons or "cudaError 100" in reasons:
        return no_device(what)
    if "OutOfMemory" in reasons or "cudaError 2 " in reasons or "out of memory" in reasons:
        return UnavailableError(f"{what}: out of memory ({errors_of(log)}). Use smaller batches, or a larger --workspace-mib")
    if "workspace limit" in reasons:
        return EngineError(f"{what} with so little scratch memory: raise --workspace-mib, or leave it out")
    return EngineError(f"{what}: {errors_of(log)}")


def no_device(what: str) -> UnavailableError:
    """The exception where no GPU answers, with what PyTorch knows of the driver."""
    import torch

    try:
        torch.cuda.init()
        reason = "PyTorch has one; the package needs a newer driver"
    except (AssertionError, RuntimeError) as exc:  # says which driver was found, or that this torch is a CPU build
        reason = str(exc).splitlines()[0]
    return UnavailableError(
        f"{what}: no NVIDIA GPU that can be used ({reason}). Install or update the driver, or use the machine of the plan"
    )
