"""What is asked of a Triton model repository."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from resnet_deploy import limits
from resnet_deploy.backends.table import BACKENDS
from resnet_deploy.engine.flavours import BUILDERS
from resnet_deploy.errors import UsageError
from resnet_deploy.precisions import PRECISIONS
from resnet_deploy.specs import OptionGroup

DELAY_S = 500e-6
_NAME = re.compile(r"[A-Za-z0-9][\w.+=-]*")


@dataclass(frozen=True, kw_only=True)
class TritonOptions(OptionGroup):
    """How a bundle is served. The names and defaults are those of `resnet-deploy triton`.

    Attributes:
        precision: of the file that is served.
        platform: onnxruntime (the graph) or tensorrt (its plans).
        device: cpu or gpu, for onnxruntime; by default cpu.
        flavour: the package whose plans are served; Triton's TensorRT backend reads those of tensorrt.
        plan: one of the bundle's plans by file name, where several would do.
        name: of the model; by default the architecture's.
        instances: copies that run at the same time; by default 1 on CPUs, each of which uses all cores, and 2 on GPUs, so that
            one copies while the other computes.
        max_batch: the largest batch that Triton forms; by default the largest that the file was checked for.
        max_delay: how long a request waits for others to fill a batch, in seconds or as a text with a unit; by default 500us or
            less.
        latency_bound: how long 99 % of the requests may take, likewise; batches and delay are chosen for it from the bundle's
            measurements.
        version_policy: latest:N, all, or specific:1,3.
        warm_up: run real shapes before a version is ready.
        cuda_graphs: start the inferences of plans as CUDA graphs.
        response_cache: let the server answer equal requests from memory.
        labels: a file with the name of a class a line; by default the bundle's names.
        threads: CPU threads of each ONNX Runtime instance; by default all cores.
        ensemble: jpeg, to add models around the network that take image files and answer with classes.
        top_k: how many classes the ensemble answers with.
        release: a Triton release that must be able to read the plan, as 26.09.
    """

    precision: str = "fp32"
    platform: str = "onnxruntime"
    device: str | None = None
    flavour: str = "tensorrt"
    plan: str | None = None
    name: str | None = None
    instances: int | None = None
    max_batch: int | None = None
    max_delay: float | str | None = None
    latency_bound: float | str | None = None
    version_policy: str = "latest:1"
    warm_up: bool = True
    cuda_graphs: bool = True
    response_cache: bool = False
    labels: str | Path | None = None
    threads: int | None = None
    ensemble: str | None = None
    top_k: int = 5
    release: str | None = None

    def __post_init__(self) -> None:
        for what, value, known in (
            ("precision", self.precision, PRECISIONS),
            ("platform", self.platform, [row.name for row in BACKENDS.values() if row.triton]),
            ("device", self.device or "cpu", ("cpu", "gpu")), ("flavour", self.flavour, BUILDERS),
            ("ensemble", self.ensemble or "jpeg", ("jpeg",)),
        ):  # fmt: skip
            if value not in known:
                raise UsageError(f"unknown {what} {value!r}; choose from {', '.join(known)}")
        if self.name is not None and not _NAME.fullmatch(self.name):
            raise UsageError(
                f"{self.name!r} is not a model's name: it may have letters, digits and, after the first, . _ + = -"
            )
        for option in ("instances", "max_batch", "threads", "top_k"):
            limits.check_option(option, getattr(self, option))
        _ = self.policy, self.max_delay_s, self.latency_bound_s
        if self.runs_plans:
            self._check_tensorrt()
        elif self.plan or self.release:
            raise UsageError("--plan and --release are for TensorRT plans; add --platform tensorrt")
        elif self.on_gpu and self.threads:
            raise UsageError("--threads is for ONNX Runtime on the CPU alone")
        super().__post_init__()

    def _check_tensorrt(self) -> None:
        if self.device == "cpu":
            raise UsageError("plans run on GPUs; for the CPU use --platform onnxruntime")
        if self.threads:
            raise UsageError("--threads is for ONNX Runtime on the CPU alone")

    @property
    def runs_plans(self) -> bool:
        """Whether the server runs plans, not graphs."""
        return BACKENDS[self.platform].runs == "plan"

    @property
    def max_delay_s(self) -> float | None:
        """`max_delay` in seconds."""
        return None if self.max_delay is None else limits.seconds("max_delay", self.max_delay)

    @property
    def latency_bound_s(self) -> float | None:
        """`latency_bound` in seconds."""
        return None if self.latency_bound is None else limits.seconds("latency_bound", self.latency_bound)

    @property
    def on_gpu(self) -> bool:
        return self.runs_plans or self.device == "gpu"

    @property
    def copies(self) -> int:
        """Instances, with the default in their place."""
        return self.instances or (2 if self.on_gpu else 1)

    @property
    def policy(self) -> dict[str, object]:
        """The version policy as config.pbtxt has it. Raises UsageError."""
        kind, _, argument = self.version_policy.partition(":")
        listed = re.fullmatch("[1-9][0-9]{0,8}(,[1-9][0-9]{0,8})*", argument) is not None
        numbers = [int(part) for part in argument.split(",")] if listed else []
        if kind == "all" and not argument:
            return {"all": {}}
        if kind == "latest" and len(numbers) == 1:
            return {"latest": {"num_versions": numbers[0]}}
        if kind == "specific" and numbers:
            return {"specific": {"versions": numbers}}
        raise UsageError(f"a version policy is latest:N, all, or specific:1,3; found {self.version_policy!r}")
