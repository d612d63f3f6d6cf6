"""What is in a file that was made: a graph, or a plan with the precision that its layers really compute in."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resnet_deploy._files import sha256_file
from resnet_deploy.bundle.manifest import PlanFile
from resnet_deploy.bundle.names import MANIFEST
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.engine.flavours import FLAVOURS
from resnet_deploy.engine.plan import deserialize, identify
from resnet_deploy.engine.report import PlanReport, from_inspector, summarize
from resnet_deploy.errors import EngineError, GraphError, IntegrityError
from resnet_deploy.graphs import GraphReport, read_graph

_PLANS = {".plan", ".engine", ".trt"}  # how people call them


@dataclass(frozen=True, kw_only=True)
class PlanDetails:
    """A plan. origin, profiles, flags, made_from: as the manifest has them, None for a foreign plan. report: which precision
    each layer really computes in."""

    file: str
    sha256: str
    size_bytes: int
    report: PlanReport
    origin: dict[str, Any] | None = None
    profiles: tuple[str, ...] | None = None
    flags: dict[str, Any] | None = None
    made_from: str | None = None
    builder_s: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "report": self.report.to_dict()}


def inspect(path: str | Path, *, trust: bool = False) -> GraphReport | PlanDetails:
    """Read an ONNX file, or a plan as the manifest beside it describes it.

    trust: deserialise a plan that no manifest knows, which runs native code and needs a GPU. Raises GraphError for what is
    neither, IntegrityError for a plan that was changed or that no manifest knows, UnavailableError without a GPU.
    """
    path = Path(path)
    if not path.is_file():
        found = "is a folder; give one of its files" if path.is_dir() else "does not exist"
        raise GraphError(f"{path} {found}")
    if path.suffix in _PLANS or identify(path) is not None:
        return _inspect_plan(path, trust)
    return read_graph(path)


def _inspect_plan(path: Path, trust: bool) -> PlanDetails:
    size = path.stat().st_size
    if (path.parent / MANIFEST).is_file():
        bundle = Bundle.open(path.parent)
        if (plan := bundle.manifest.files(PlanFile).get(path.name)) is not None:
            bundle.artifact(path.name)
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
        raise EngineError(f"{path} is no plan: it does not begin as TensorRT's do")
    trt, engine = deserialize(path, FLAVOURS[written.split()[0]])
    layers = from_inspector(engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON))
    return PlanDetails(
        file=str(path), sha256=sha256_file(path), size_bytes=size,
        report=summarize(layers, [name for layer in layers if layer.computes for name in layer.onnx], ()),
    )  # fmt: skip
