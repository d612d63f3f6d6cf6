"""Which backends work on this machine: each is tried, not looked up, and what is missing is named with its command."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resnet_deploy import _deps
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.backends.table import BACKENDS
from resnet_deploy.engine.flavours import FLAVOURS
from resnet_deploy.errors import DeployError


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that `doctor` tried.

    Attributes:
        name: its title.
        version: of its package; None where that is not installed.
        status: works, builds (plans, that cannot run here), or missing.
        detail: what was found, or what to do.
    """

    name: str
    status: str
    version: str | None
    detail: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def doctor() -> list[Finding]:
    """Try every backend with a small network, and every TensorRT package with its builder.

    Returns:
        What was found of each, with the way to what is missing; nothing is raised for that.
    """
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "model.fp32.onnx"
        findings = [
            _try(title, row.package, lambda text=text: _run(Candidate.parse(text), graph))  # type: ignore[misc]
            for row in BACKENDS.values()
            for title, text in row.trials.items()
        ]
        return [*findings, _try("digits data", "scikit-learn", _digits), *_doubled()]


def _doubled() -> list[Finding]:
    """Two packages of ONNX Runtime, installed over each other: what runs is parts of both."""
    both = _deps.installed("onnxruntime")
    if len(both) < 2:
        return []
    listed = " and ".join(f"{name} {version}" for name, version in both.items())
    detail = (
        f"{listed} are both installed, in one folder, each over the other's files: pip uninstall -y {' '.join(both)}, then "
        f"install one, with {_deps.install_command('gpu')} for a GPU or {_deps.install_command('cpu')}"
    )
    return [Finding(name="two ONNX Runtimes", status="missing", version=_deps.version("onnxruntime"), detail=detail)]


def _try(name: str, package: str, trial: Callable[[], tuple[str, str]]) -> Finding:
    try:
        status, detail = trial()
    except DeployError as exc:
        status, detail = "missing", str(exc)
    except Exception as exc:  # a runtime that is installed but broken may raise anything
        status, detail = "missing", f"installed, but it fails: {type(exc).__name__}: {str(exc).splitlines()[0]}"
    return Finding(name=name, status=status, version=_deps.version(package), detail=detail)


def _run(candidate: Candidate, graph: Path) -> tuple[str, str]:
    """Status and detail of one inference; the small graph is written where it is not there yet."""
    import numpy as np

    from resnet_deploy.backends.load import load_backend

    path, origin = graph, None
    needs = candidate.row.devices[candidate.device]
    if needs.extra is not None:
        _deps.require(candidate.row.package, extra=needs.extra)
    if candidate.row.runs != "network" and not graph.exists():
        _small_graph(graph)
    if candidate.row.runs == "plan":
        from resnet_deploy.engine.plan import check_runtime
        from resnet_deploy.pipeline.build import build_beside

        flavour = FLAVOURS[candidate.backend]
        builder = FLAVOURS[flavour.plans_of]
        if builder is not flavour:
            check_runtime(flavour)
            if builder.version is None:
                return "works", f"starts on this GPU; no plan was run: {builder.title}, which builds them, is not installed"
        path, origin = build_beside(graph, candidate, 1)
        if origin.gpu is None:
            return "builds", "builds plans; running them needs an NVIDIA GPU"
    with load_backend(candidate, model=_model, artifact=lambda: (path, origin)) as backend:
        backend.infer(np.zeros((1, 3, 32, 32), np.float32))
        return "works", backend.summary()


def _digits() -> tuple[str, str]:
    _deps.require("sklearn.datasets", extra="digits")
    return "works", "`--data digits`"


def _model() -> Any:
    from resnet_deploy.models.create import load_model
    from resnet_deploy.models.deploy import DeployModel
    from resnet_deploy.specs import Head, InputFormat

    loaded = load_model("resnet20")
    return DeployModel(loaded.network, head=Head(), input_format=InputFormat.FLOAT, preprocessing=loaded.preprocessing)


def _small_graph(path: Path) -> None:
    """One convolution, written by hand: exporting takes seconds."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weight = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "weight")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["input", "weight"], ["logits"])], "doctor",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 32, 32])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 4, 30, 30])], [weight],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
