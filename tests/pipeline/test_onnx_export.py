"""Export: what is in the file, that it answers as eager does, and that a file which doesn't is not left behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from resnet_deploy import limits
from resnet_deploy.errors import ExportError, StorageError, UsageError
from resnet_deploy.models.deploy import DeployModel
from resnet_deploy.pipeline.inspect import inspect
from resnet_deploy.pipeline.onnx_export import export_onnx
from tests.helpers.networks import SMALL, deploy


@pytest.fixture(autouse=True)
def traced_once() -> None:
    """Here the exporter runs every time."""


pytestmark = pytest.mark.slow


def run(path: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """ONNX Runtime by hand, not through our backend."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"input": images}), strict=True))


@pytest.mark.parametrize(
    ("name", "head", "input_format", "size"),
    [
        ("resnet20", "probabilities", "uint8", 32),
        (SMALL, "embedding+l2", "float", 32),
        (SMALL, "topk:3", "uint8", 32),
        (SMALL, "features", "uint8", 40),
        ("resnet18", "features", "float", 64),
        ("resnext50_32x4d", "logits", "uint8", 64),
    ],
)
def test_the_file_answers_as_eager_does(tmp_path: Path, name: str, head: str, input_format: str, size: int) -> None:
    model = deploy(name, head, input_format, size)
    checks = export_onnx(model, tmp_path / "m.onnx", max_batch=9)
    assert [check["batch"] for check in checks] == [1, 2, 7, 9]
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"], "one self-contained file"
    rng = np.random.default_rng(1)
    shape = (5, *model.input_spec.shape[1:])
    images = rng.integers(0, 256, shape, np.uint8) if input_format == "uint8" else rng.standard_normal(shape, np.float32)
    with torch.inference_mode():
        eager = model(torch.from_numpy(images))
    found = run(tmp_path / "m.onnx", images)
    assert tuple(found) == model.output_names
    for tensor, array in zip(eager if isinstance(eager, tuple) else (eager,), found.values(), strict=True):
        np.testing.assert_allclose(array, tensor.numpy(), rtol=1e-4, atol=1e-4 * float(tensor.abs().max()))


def test_what_is_in_the_graph(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    export_onnx(deploy(input_format="uint8"), path, max_batch=2)
    report = inspect(path)
    assert [str(spec) for spec in (*report.inputs, *report.outputs)] == [
        "input uint8 [batch, 32, 32, 3]",
        "logits float32 [batch, 10]",
    ]
    assert "BatchNormalization" not in report.operators, "folded into the convolutions"
    assert not {"Shape", "Gather"} & set(report.operators), "shapes are known when the graph is made"
    proto = onnx.load(path)
    assert proto.graph.node[0].op_type == "Cast", "TensorRT takes uint8 only into a cast"
    names = [layer.name for layer in report.layers]
    modules = [
        name for name, module in deploy().network.named_modules() if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))
    ]
    assert sorted(names) == sorted(modules), "layers carry their modules' names"
    assert {node.name for node in proto.graph.node} >= {"layer1.0.relu1", "layer3.2.relu2"}
    assert str(Path(__file__).parents[2]).encode() not in path.read_bytes(), "no path of the exporting machine"
    # What is left after folding: every learned value but the batch norms', whose shift became the convolutions' bias.
    assert report.parameters >= sum(p.numel() for n, p in deploy().named_parameters() if "bn" not in n)


def test_equal_models_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        export_onnx(deploy(SMALL), tmp_path / name, max_batch=2)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_batch_of_one_is_static(tmp_path: Path) -> None:
    export_onnx(deploy(SMALL), tmp_path / "m.onnx", max_batch=1)
    assert inspect(tmp_path / "m.onnx").inputs[0].shape == (1, 3, 32, 32)


class Unfaithful(DeployModel):
    """Exports one function and computes another, as a faulty exporter would make it."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = super().forward(images)
        return logits if torch.compiler.is_exporting() else logits * 1.01


def test_an_export_that_differs_is_an_error_and_leaves_no_file(tmp_path: Path) -> None:
    good = deploy(SMALL)
    bad = Unfaithful(good.network, head=good.head, input_format=good.input_format, preprocessing=good.preprocessing)
    with pytest.raises(ExportError, match=r"differs from eager at batch 1: relative error 0\.0") as caught:
        export_onnx(bad, tmp_path / "m.onnx", max_batch=2)
    assert caught.value.exit_code == 1 and list(tmp_path.iterdir()) == []


def test_overflowing_weights_are_found(tmp_path: Path) -> None:
    model = deploy(SMALL)
    with torch.no_grad():
        model.network.fc.weight.fill_(3e38)
    with pytest.raises(ExportError, match="NaN or Inf"):
        export_onnx(model, tmp_path / "m.onnx", max_batch=2)
    assert list(tmp_path.iterdir()) == []


def test_an_untraceable_model_is_named(tmp_path: Path) -> None:
    class Branching(DeployModel):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return super().forward(images) if images.sum() > 0 else images

    good = deploy(SMALL)
    bad = Branching(good.network, head=good.head, input_format=good.input_format, preprocessing=good.preprocessing)
    with pytest.raises(ExportError, match=r"torch\.onnx\.export failed"):
        export_onnx(bad, tmp_path / "m.onnx")


def test_no_room_for_the_file() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    from resnet_deploy.pipeline.onnx_export import _write

    with pytest.raises(StorageError):
        _write(onnx.helper.make_model(onnx.helper.make_graph([], "g", [], [])), Path("/dev/full"))


def test_a_batch_below_one(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least 1"):
        export_onnx(deploy(SMALL), tmp_path / "m.onnx", max_batch=0)


@pytest.mark.parametrize("opset", [-1, 0, 13, 17, 24, 10**9])
def test_an_opset_out_of_range_is_refused_before_any_work(tmp_path: Path, opset: int) -> None:
    """Asked for 13 to 17, torch.onnx writes 18 and says nothing."""
    with pytest.raises(UsageError, match=f"opset must be a whole number of at least 18 and at most 23; found {opset}"):
        export_onnx(deploy(SMALL), tmp_path / "m.onnx", max_batch=2, opset=opset)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("opset", [18, 23])
def test_the_file_has_the_opset_that_was_asked_for(tmp_path: Path, opset: int) -> None:
    export_onnx(deploy(SMALL), tmp_path / "m.onnx", max_batch=2, opset=opset)
    assert inspect(tmp_path / "m.onnx").opset == opset


def test_a_file_of_another_opset_is_not_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The range is opened, so that the real exporter writes 18 where 17 is asked for."""
    monkeypatch.setitem(limits.LIMITS, "opset", limits.Limits(low=1, high=99))
    with pytest.raises(ExportError, match="wrote opset 18 where 17 was asked for"):
        export_onnx(deploy(SMALL), tmp_path / "m.onnx", max_batch=2, opset=17)
    assert not list(tmp_path.iterdir())
