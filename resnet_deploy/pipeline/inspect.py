"""What is in a file that was made: a graph, or a plan with the precision that its layers really compute in."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from resnet_deploy._files import regular, sha256_file
from resnet_deploy._isolate import IsolationError, run_isolated
from resnet_deploy.bundle.manifest import Artifact, PlanFile
from resnet_deploy.bundle.names import MANIFEST
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.engine.flavours import FLAVOURS
from resnet_deploy.engine.plan import deserialize, identify
from resnet_deploy.engine.report import EngineLayer, PlanReport, inspect_engine, summarize
from resnet_deploy.errors import BundleError, EngineError, GraphError, IntegrityError
from resnet_deploy.graph.describe import GraphReport, read_graph

_PLANS = {".plan", ".engine", ".trt"}  # how people call them
_PLAN_S = 600.0  # of a plan of gigabytes, with TensorRT's own start


@dataclass(frozen=True, kw_only=True)
class PlanDetails:
    """A TensorRT plan.

    Attributes:
        file, sha256, size_bytes: the file, its digest and its size.
        origin, profiles, flags, made_from: as the manifest has them, None for a foreign plan.
        report: which precision each layer really computes in.
        builder_s: seconds that building took; None for a foreign plan.
        warnings: what the builder, or the check of its layers, said.
    """

    file: str
    sha256: str
    size_bytes: int
    report: PlanReport
    origin: dict[str, Any] | None = None
    profiles: tuple[str, ...] | None = None
    flags: dict[str, Any] | None = None
    made_from: str | None = None
    builder_s: float | None = None
    warnings: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "report": self.report.to_dict()}


def inspect(path: str | Path, *, trust: bool = False) -> GraphReport | PlanDetails:
    """Read an ONNX file, or a plan as the manifest beside it describes it.

    Native code reads the file in a process of its own, so that a crash there is an error here.

    Args:
        path: of an ONNX file, or of a plan.
        trust: deserialise a plan that no manifest knows, which runs native code and needs a GPU.

    Returns:
        What is in it. A graph that a manifest beside it names, and that was changed since, has that among its `warnings`.

    Raises:
        GraphError: for what is neither.
        IntegrityError: for a plan that was changed, that no manifest knows, or whose manifest was changed.
        EngineError: for a plan that cannot be read.
        UnavailableError: without a GPU.
    """
    path = Path(path)
    try:
        regular(path, 1 << 62)
        is_plan = path.suffix in _PLANS or identify(path) is not None
    except (OSError, ValueError) as exc:
        raise GraphError(f"{path} {_no_file(path, exc)}") from exc
    if is_plan:
        return _inspect_plan(path, _entry(path), trust)
    report = read_graph(path)
    return replace(report, warnings=(*_doubts(path, report.sha256), *report.warnings))


def _no_file(path: Path, exc: Exception) -> str:
    if path.is_dir():
        return "is a folder; give one of its files"
    if isinstance(exc, FileNotFoundError):
        return "does not exist"
    return f"cannot be read: {exc.strerror if isinstance(exc, OSError) else exc}"


def _doubts(path: Path, digest: str) -> tuple[str, ...]:
    """What the manifest beside a graph has against it."""
    try:
        known = _entry(path)
    except BundleError as exc:
        return (f"whether {path.name} was changed is not known: {exc}",)
    if known is None or (recorded := known[1].sha256) == digest:
        return ()
    return (
        f"{path.name} was changed after it was made: its SHA-256 is {digest[:16]}…, the manifest beside it has "
        f"{recorded[:16]}…. What is shown is the file as it is now; nothing that the bundle records is about it",
    )


def _entry(path: Path) -> tuple[Bundle, Artifact] | None:
    """The bundle that a file stands in and names, and what it records of it."""
    if not (path.parent / MANIFEST).is_file():
        return None
    bundle = Bundle.open(path.parent)
    entry = bundle.manifest.artifacts.get(path.name)
    return None if entry is None else (bundle, entry)


def _inspect_plan(path: Path, known: tuple[Bundle, Artifact] | None, trust: bool) -> PlanDetails:
    size = path.stat().st_size
    if known is not None and isinstance(plan := known[1], PlanFile):
        known[0].artifact(path.name)  # its bytes are those that were recorded, or this raises
        return PlanDetails(
            file=str(path), size_bytes=size, profiles=plan.profiles, report=plan.report, origin=plan.origin.to_dict(),
            flags=plan.flags, made_from=plan.made_from, builder_s=plan.builder_s, sha256=plan.sha256,
        )  # fmt: skip
    written = identify(path)
    if not trust:
        raise IntegrityError(
            f"{path} is in no manifest{f' (it looks like one of {written})' if written else ''}. Reading a plan runs native "
            "code: with --trust it is read on this machine's GPU, if you know where it comes from"
        )
    if written is None:
        raise EngineError(f"{path} is not a TensorRT plan")
    try:
        layers = run_isolated(plan_layers, path, written.split()[0], timeout_s=_PLAN_S)
    except IsolationError as exc:
        raise EngineError(f"{written.split()[0]} cannot read {path}: {exc}. The plan is damaged or malicious") from exc
    return PlanDetails(
        file=str(path), sha256=sha256_file(path), size_bytes=size,
        report=summarize(layers, [name for layer in layers if layer.computes for name in layer.onnx], ()),
    )  # fmt: skip


def plan_layers(path: Path, flavour: str) -> list[EngineLayer]:
    """The layers of a trusted plan, as its own engine reports them. Raises EngineError, UnavailableError."""
    return inspect_engine(*deserialize(path, FLAVOURS[flavour]))
