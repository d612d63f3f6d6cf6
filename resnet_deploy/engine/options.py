"""What a plan is built with. Precision is not among it: the graph has decided that."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from resnet_deploy import limits
from resnet_deploy.engine.flavours import Flavour
from resnet_deploy.engine.formats import INPUT_FORMATS, LINEAR
from resnet_deploy.errors import UsageError
from resnet_deploy.specs import OptionGroup, listed

# https://docs.nvidia.com/deeplearning/tensorrt/latest/inference-library/engine-compatibility.html
HARDWARE = ("ampere-plus", "same-compute-capability")
TILING = ("none", "fast", "moderate", "full")  # TilingOptimizationLevel
RTX_TARGETS = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
# Builds without a GPU are for these where nothing else is asked for: SM75 among them would rule out INT8 for all
# (it has no INT8 convolutions), and SM80 and later all have them.
DEFAULT_TARGETS = ("sm80", "sm86", "sm89", "sm120")


@dataclass(frozen=True, kw_only=True)
class OptimizationProfile:
    """Batch sizes that a plan takes.

    Attributes:
        min, max: the smallest and the largest.
        opt: the one that kernels are chosen for.
    """

    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max:
            raise UsageError(f"a profile {self} needs 1 <= smallest <= best <= largest batch, as in 1:8:64")
        limits.check_option("batch", (self.min, self.opt, self.max), label="a profile's batch size")

    @classmethod
    def parse(cls, text: str) -> OptimizationProfile:
        """Read `8` (that batch alone) or `1:8:64`. Raises UsageError."""
        parts = text.strip().split(":")
        if len(parts) not in {1, 3} or not all(re.fullmatch("[0-9]{1,300}", part) for part in parts):
            raise UsageError(f"a profile is one batch size, or three as in 1:8:64; found {text!r}")
        numbers = [int(part) for part in parts]
        smallest, best, largest = numbers * 3 if len(numbers) == 1 else numbers
        return cls(min=smallest, opt=best, max=largest)

    def holds(self, batch: int) -> bool:
        return self.min <= batch <= self.max

    def __str__(self) -> str:
        return f"{self.min}:{self.opt}:{self.max}"


def best_profile(profiles: Iterable[OptimizationProfile], batch: int) -> int | None:
    """Choose the profile for a batch: of those that hold it, the one tuned nearest to it, and the narrower of equals.

    Args:
        profiles: of a plan, in their order.
        batch: images.

    Returns:
        An index; None where no profile holds the batch.
    """
    fitting = [(abs(p.opt - batch), p.max - p.min, index) for index, p in enumerate(profiles) if p.holds(batch)]
    return min(fitting)[2] if fitting else None


@dataclass(frozen=True, kw_only=True)
class BuildOptions(OptionGroup):
    """How plans are built. The names and defaults are those of `resnet-deploy build`.

    Attributes:
        batch: one or several optimization profiles: `8` (that batch size alone) or `1:8:64` (smallest, best, largest).
        flavour: auto, tensorrt or tensorrt-rtx.
        compute_capability: of the GPUs that a TensorRT-RTX plan is for, as sm86,sm89; by default that of this machine's GPU,
            else those of the DEFAULT_TARGETS that have the precision.
        optimization_level: 0 (fast to build) to 5 (fast to run); by default the package's own, 3.
        workspace_mib: scratch memory that kernels may use, MiB; by default all.
        hardware_compatible: let other GPUs run the plan: ampere-plus or same-compute-capability (tensorrt).
        version_compatible: let later versions of TensorRT run the plan (tensorrt).
        sparse_weights: use 2:4 sparse kernels for weights that have that pattern.
        tf32: allow TF32 in FP32 layers.
        timing_cache: keep the measured times of kernels in the bundle; by default where the package has such a cache.
        tiling_optimization: none, fast, moderate or full: how long to search for kernels that share tiles in the L2 cache.
        max_aux_streams: of the streams beside the caller's in which branches run at the same time; 0 for none, the
            package's own choice by default.
        avg_timing: runs that are averaged for the time of a kernel, 1 by default; more choose better on a noisy GPU.
        input_format: the layout of the images in the device's memory: linear, hwc, chw4, hwc8 or chw32; the backend brings
            them into it, on the host.
    """

    batch: str | Iterable[str] = ("1:8:32",)
    flavour: str = "auto"
    compute_capability: str | Iterable[str] = ()
    optimization_level: int | None = None
    workspace_mib: int | None = None
    hardware_compatible: str | None = None
    version_compatible: bool = False
    sparse_weights: bool = False
    tf32: bool = False
    timing_cache: bool | None = None
    tiling_optimization: str | None = None
    max_aux_streams: int | None = None
    avg_timing: int | None = None
    input_format: str = LINEAR

    def __post_init__(self) -> None:
        object.__setattr__(self, "batch", tuple(listed(self.batch)))
        if isinstance(self.compute_capability, str):
            names = tuple(part for part in self.compute_capability.lower().split(",") if part)
            object.__setattr__(self, "compute_capability", names)
        if not self.batch:
            raise UsageError("a plan needs at least one profile, as in 1:8:64")
        if unknown := [name for name in self.compute_capability if name not in RTX_TARGETS]:
            raise UsageError(f"unknown compute capability {unknown[0]!r}; choose from {', '.join(RTX_TARGETS)}")
        if self.hardware_compatible is not None and self.hardware_compatible not in HARDWARE:
            raise UsageError(f"unknown compatibility {self.hardware_compatible!r}; choose from {', '.join(HARDWARE)}")
        if self.tiling_optimization is not None and self.tiling_optimization not in TILING:
            raise UsageError(f"unknown tiling optimization {self.tiling_optimization!r}; choose from {', '.join(TILING)}")
        if self.input_format not in INPUT_FORMATS:
            raise UsageError(f"unknown input format {self.input_format!r}; choose from {', '.join(INPUT_FORMATS)}")
        if self.input_format != LINEAR and self.version_compatible:
            raise UsageError("the lean runtime tells no formats: --version-compatible goes with --input-format linear alone")
        for name in ("optimization_level", "workspace_mib", "max_aux_streams", "avg_timing"):
            limits.check_option(name, getattr(self, name))
        _ = self.profiles
        super().__post_init__()

    @property
    def profiles(self) -> tuple[OptimizationProfile, ...]:
        return tuple(dict.fromkeys(OptimizationProfile.parse(text) for text in self.batch))

    def check(self, flavour: Flavour) -> None:
        """Raise UsageError for an option that a package lacks."""
        for name, reason in (flavour.lacks or {}).items():
            if getattr(self, name) not in (None, False, ()):
                option = f"--{name.replace('_', '-')}"
                raise UsageError(f"{flavour.name} {flavour.version} has no {option}: {reason}")

    def flags(self) -> dict[str, Any]:
        """Everything but profiles, flavour and compute capabilities: what the manifest records."""
        others = {"batch", "flavour", "compute_capability"}
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in others}
