"""An architecture, a backend and a precision that a program registers, each through export, verify, bench and report.

The definitions are those of CONTRIBUTING.md; nothing of the package is changed for them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

import resnet_deploy as rd
from resnet_deploy.backends.base import Backend, Outputs
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.backends.table import BACKENDS, BackendRow, Implementation
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.errors import UsageError
from resnet_deploy.graph.graph import Graph
from resnet_deploy.models.config import ResNetConfig
from resnet_deploy.models.registry import ARCHITECTURES, Architecture
from resnet_deploy.precisions import PRECISIONS, Precision, PrecisionRow
from resnet_deploy.specs import Preprocessing, TensorSpec

# --- an architecture: its shape and its row ---

TINY = ResNetConfig(block="basic", layers=(1, 1), widths=(8, 16), stem="cifar", shortcut="A", num_classes=10)
ARCHITECTURE = Architecture(
    name="tiny_resnet", family="ResNet", paper="1512.03385", config=TINY, preprocessing=Preprocessing(resize=16, crop=16)
)


# --- a backend: its class and its row ---


class ReferenceBackend(Backend):
    """ONNX's own evaluator, in numpy."""

    def __init__(self, path: Path, candidate: Candidate, *, threads: int | None = None) -> None:
        self.candidate = candidate
        self._evaluator = ReferenceEvaluator(str(path))
        (port,) = onnx.load(path).graph.input
        sizes = [size.dim_value for size in port.type.tensor_type.shape.dim[1:]]
        self.input_spec = TensorSpec(name=port.name, dtype="float32", shape=("batch", *sizes))
        self.output_names = tuple(self._evaluator.output_names)

    def bind(self, images: NDArray[Any]) -> None:
        self.check(images)
        self._images = images

    def enqueue(self) -> None:
        self._answers = self._evaluator.run(None, {self.input_spec.name: self._images})

    def synchronize(self) -> None:
        """`enqueue` returns when the answer is there."""

    def outputs(self) -> Outputs:
        return dict(zip(self.output_names, self._answers, strict=True))

    def describe(self) -> dict[str, Any]:
        return {"onnx": onnx.__version__, "device": "cpu"}


BACKEND = BackendRow(
    name="onnx-reference",
    package="onnx",
    runs="graph",
    devices={"cpu": Implementation(where=f"{__name__}:ReferenceBackend", package="onnx")},
    precisions=("fp32",),
    trials={"ONNX's evaluator": "onnx-reference"},
)


# --- a precision: its lowering, its row, and the backend that runs it ---


def store_weights_as_uint8(graph: Graph, precision: Precision, *, native_io: bool = False, keep: Collection[str] = ()) -> Graph:
    """Convolutions' weights as 256 levels an output channel, with DequantizeLinear in front; what is computed stays FP32."""
    done = graph.copy()
    for node in done.weighted():
        name = node.input[1]
        if node.op_type != "Conv" or node.name in keep:
            continue
        weight = done.value(name)
        scales = np.maximum(np.abs(weight).reshape(len(weight), -1).max(1) / 127, 1e-12).astype(np.float32)
        levels = np.rint(weight / scales.reshape(-1, 1, 1, 1)) + 128
        done.add_constant(f"{name}.q", levels.astype(np.uint8))
        done.add_constant(f"{name}.scale", scales)
        done.add_constant(f"{name}.zero_point", np.full(len(weight), 128, np.uint8))
        values = done.add_node(
            "DequantizeLinear", (f"{name}.q", f"{name}.scale", f"{name}.zero_point"), f"{name}.dq", f"{name}.dq", axis=0
        )
        done.rewire(node, name, values)
    done.sort()
    return done


PRECISION = PrecisionRow(
    name="uint8-weights-only",
    element="uint8",
    value_bytes=4,
    gates={"cosine-mean": 0.99},
    lowering=f"{__name__}:store_weights_as_uint8",
)


@pytest.fixture(scope="module", autouse=True)
def registered() -> Iterator[None]:
    """The tables as they were, when all is done: other tests of this process count their rows."""
    tables: tuple[dict[str, Any], ...] = (ARCHITECTURES, BACKENDS, PRECISIONS)
    before = [dict(table) for table in tables]
    rd.register_architecture(ARCHITECTURE)
    rd.register_backend(BACKEND)
    rd.register_precision(PRECISION)
    for name in ("onnxruntime", "onnx-reference"):
        row = BACKENDS[name]
        rd.register_backend(replace(row, precisions=(*row.precisions, PRECISION.name)), replace=True)
    yield
    for table, rows in zip(tables, before, strict=True):
        table.clear()
        table.update(rows)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("extending") / "bundle"
    return rd.export("tiny_resnet", path, precision="fp32,uint8-weights-only", max_batch=7)


BACKENDS_OF_ALL = ("eager", "onnxruntime", "onnx-reference")


def test_they_are_verified(bundle: Bundle) -> None:
    texts = [*BACKENDS_OF_ALL, "onnxruntime:uint8-weights-only", "onnx-reference:uint8-weights-only"]
    verdicts = rd.verify(bundle, data="random:8", backend=texts)
    assert [str(verdict.candidate) for verdict in verdicts] == texts
    assert all(not verdict.failures for verdict in verdicts)
    exact, *rounded = (verdicts[index].report for index in (2, 3, 4))
    assert exact.max_rel_error is not None and exact.max_rel_error < 1e-4
    for report in rounded:
        assert 0.99 < report.cosine_mean < 1, "256 levels of a weight show, and are enough"


def test_they_are_measured_and_reported(bundle: Bundle, tmp_path: Path) -> None:
    report = rd.bench(
        bundle, data="random:8", backend=BACKENDS_OF_ALL, precision="fp32,uint8-weights-only", batch=(1, 2),
        duration=0.05, threads=1,
    )  # fmt: skip
    rows = {(row.backend, row.precision, row.batch) for row in report.results}
    files = {("eager", "fp32")} | {(name, precision) for name in BACKENDS_OF_ALL[1:] for precision in ("fp32", PRECISION.name)}
    assert rows == {(*file, batch) for file in files for batch in (1, 2)}
    assert not report.unmeasured and all(row.gate == "pass" for row in report.results)
    for name in ("report.html", "report.md"):
        rd.report(bundle, output=tmp_path / name)
        text = (tmp_path / name).read_text()
        assert all(word in text for word in ("onnx-reference", PRECISION.name, "tiny_resnet"))


def test_a_bundle_of_theirs_is_read_and_added_to(bundle: Bundle) -> None:
    again = rd.export(Bundle.open(bundle.path), precision=PRECISION.name)
    entry = again.entry("model.uint8-weights-only.onnx")
    assert entry.precision is Precision("uint8-weights-only")  # type: ignore[union-attr]
    assert entry.sha256 == bundle.entry("model.uint8-weights-only.onnx").sha256, "it is not made again"
    weights = rd.inspect(again.path / "model.uint8-weights-only.onnx")
    assert weights is not None


def test_doctor_tries_the_backend() -> None:
    (found,) = (finding for finding in rd.doctor() if finding.name == "ONNX's evaluator")
    assert (found.status, found.version) == ("works", onnx.__version__)


def test_what_the_tables_refuse() -> None:
    for register, row in (
        (rd.register_architecture, ARCHITECTURE),
        (rd.register_backend, BACKEND),
        (rd.register_precision, PRECISION),
    ):
        with pytest.raises(UsageError, match="already"):
            register(row)
    with pytest.raises(UsageError, match="unknown precision 'int3'"):
        rd.register_backend(replace(BACKEND, name="other", precisions=("int3",)))
    with pytest.raises(UsageError, match="lower-case"):
        replace(PRECISION, name="UINT8")
    with pytest.raises(UsageError, match="cpu, cuda or both; found tpu"):
        replace(BACKEND, devices={"tpu": BACKEND.devices["cpu"]})
