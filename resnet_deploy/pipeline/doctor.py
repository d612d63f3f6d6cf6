"""Which backends work on this machine: each is tried, not looked up, and what is missing is named with its command."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resnet_deploy import _deps
from resnet_deploy.backends.base import Candidate
from resnet_deploy.engine.flavours import TENSORRT, TENSORRT_RTX, Flavour
from resnet_deploy.engine.plan import here
from resnet_deploy.errors import DeployError


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was tried. status: works, builds (plans, that cannot run here), or missing; detail: what was found,
    or what to do."""

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
        return [
            _try("eager (CPU)", "torch", lambda: _eager("cpu")),
            _try("eager (CUDA)", "torch", lambda: _eager("cuda")),
            _try("onnxruntime (CPU)", "onnxruntime", lambda: _ort("cpu", graph)),
            _try("onnxruntime (CUDA)", "onnxruntime", lambda: _ort("cuda", graph)),
            _try("onnxruntime (TensorRT)", "onnxruntime", lambda: _ort("tensorrt", graph)),
            _try("OpenVINO (CPU)", "openvino", lambda: _openvino(graph)),
            _try("TensorRT", "tensorrt", lambda: _builder(TENSORRT, graph)),
            _try("TensorRT-RTX", "tensorrt_rtx", lambda: _builder(TENSORRT_RTX, graph)),
            _try("digits data", "scikit-learn", _digits),
        ]


def _try(name: str, package: str, trial: Callable[[], tuple[str, str]]) -> Finding:
    try:
        status, detail = trial()
    except DeployError as exc:
        status, detail = "missing", str(exc)
    except Exception as exc:  # a runtime that is installed but broken may raise anything
        status, detail = "missing", f"installed, but it fails: {type(exc).__name__}: {str(exc).splitlines()[0]}"
    return Finding(name=name, status=status, version=_deps.version(package), detail=detail)


def _eager(device: str) -> tuple[str, str]:
    import numpy as np

    from resnet_deploy.backends.eager.backend import EagerBackend

    with EagerBackend(_model(), Candidate(backend="eager", device=device)) as backend:
        backend.infer(np.zeros((1, 3, 32, 32), np.float32))
        described = backend.describe()
    return "works", str(described.get("gpu", f"{described['threads']} threads"))


def _ort(provider: str, graph: Path) -> tuple[str, str]:
    import numpy as np

    from resnet_deploy.backends.onnxruntime.backend import OrtBackend

    _deps.require("onnxruntime", extra="cpu" if provider == "cpu" else "gpu")
    if not graph.exists():
        _small_graph(graph)
    with OrtBackend(graph, Candidate.parse(f"onnxruntime:{provider}")) as backend:
        backend.infer(np.zeros((1, 3, 32, 32), np.float32))
        return "works", f"runs {backend.describe()['providers'][0]}"


def _openvino(graph: Path) -> tuple[str, str]:
    import numpy as np

    from resnet_deploy.backends.openvino import OpenVinoBackend

    _deps.require("openvino", extra="openvino")
    if not graph.exists():
        _small_graph(graph)
    with OpenVinoBackend(graph, Candidate(backend="openvino")) as backend:
        backend.infer(np.zeros((1, 3, 32, 32), np.float32))
    return "works", "runs TensorRT's INT8 graphs on this CPU"


def _builder(flavour: Flavour, graph: Path) -> tuple[str, str]:
    import numpy as np

    from resnet_deploy.backends.tensorrt.backend import TensorRtBackend
    from resnet_deploy.pipeline.build import build_beside

    flavour.load()
    if not graph.exists():
        _small_graph(graph)
    candidate = Candidate.parse(flavour.name)
    plan, origin = build_beside(graph, candidate, 1)
    machine = here(flavour)
    if machine.gpu is None:
        return "builds", "builds plans; running them needs an NVIDIA GPU"
    with TensorRtBackend(plan, candidate, origin=origin) as backend:
        backend.infer(np.zeros((1, 3, 32, 32), np.float32))
    return "works", machine.gpu


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
