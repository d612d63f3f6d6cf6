"""One graph that averages its members' probabilities, and ten views of an image that are averaged as well."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from resnet_deploy.bundle.store import Bundle
from resnet_deploy.errors import CheckpointError, UsageError
from resnet_deploy.models.create import create_model, load_model
from resnet_deploy.models.deploy import DeployModel
from resnet_deploy.models.registry import architecture
from resnet_deploy.parity.metrics import average_views
from resnet_deploy.pipeline.export import export
from resnet_deploy.pipeline.verify import verify
from resnet_deploy.specs import Head, InputFormat
from tests.helpers.engines import build
from tests.helpers.paths import DIGITS
from tests.helpers.shared import exported, once

pytestmark = pytest.mark.slow

NAMES = ("resnet_cifar:8", "preact_resnet_cifar:8")
TWO = f"ensemble:{'+'.join(NAMES)}"


@pytest.fixture(scope="module")
def members() -> list[Path]:
    """Two checkpoints of seven classes."""

    def make(folder: Path) -> None:
        folder.mkdir()
        for index, name in enumerate(NAMES):
            torch.manual_seed(index)
            network = create_model(name, num_classes=7)
            torch.nn.init.normal_(network.fc.weight)
            torch.save(network.state_dict(), folder / f"{index}.pth")

    folder = once("members", make)
    return [folder / "0.pth", folder / "1.pth"]


def ensemble(members: list[Path], copy: Path | None = None, head: str = "logits") -> Bundle:
    return exported(TWO, copy, weights=joined(members), head=head, max_batch=4)


def joined(members: list[Path]) -> str:
    return ",".join(map(str, members))


def mean_probabilities(members: list[Path], x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        scores = [create_model(name, weights=path)(x) for name, path in zip(NAMES, members, strict=True)]
        return torch.stack([torch.softmax(score.double(), 1) for score in scores]).mean(0)


def test_its_probabilities_are_the_mean_of_its_members(members: list[Path]) -> None:
    x = torch.randn(5, 3, 32, 32)
    expected = mean_probabilities(members, x)
    network = create_model(TWO, weights=joined(members))
    with torch.inference_mode():
        torch.testing.assert_close(torch.softmax(network(x), 1).double(), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("head", ["logits", "probabilities", "topk:3"])
def test_exported_as_one_graph_and_verified(members: list[Path], tmp_path: Path, head: str) -> None:
    bundle = ensemble(members, tmp_path / "b", head)
    (found,) = verify(bundle, "random:9", threads=1)
    assert found.gate == "pass", found.failures
    x = np.random.default_rng(0).standard_normal((3, 3, 32, 32), np.float32)
    session = onnxruntime.InferenceSession(bundle.artifact("model.fp32.onnx"))
    expected = mean_probabilities(members, torch.from_numpy(x)).numpy()
    answers = session.run(None, {"input": x})
    if head == "topk:3":
        np.testing.assert_allclose(answers[0], -np.sort(-expected, 1)[:, :3], atol=1e-5)
        assert np.array_equal(answers[1], np.argsort(-expected, 1)[:, :3])
    else:
        actual = np.exp(answers[0]) if head == "logits" else answers[0]  # an ensemble's logits are logarithms
        np.testing.assert_allclose(actual, expected, atol=1e-5)


def test_it_is_described_and_reopened_as_one_model(members: list[Path]) -> None:
    bundle = ensemble(members)
    model = bundle.manifest.model
    assert model.architecture == TWO and model.num_classes == 7
    assert [member.source for member in model.weights.members] == [str(path) for path in members]
    weights = bundle.artifact("weights.safetensors")
    x = torch.randn(2, 3, 32, 32)
    again, first = create_model(TWO, weights=weights), create_model(TWO, weights=joined(members))
    assert torch.equal(again(x), first(x))
    graph = onnx.load(bundle.artifact("model.fp32.onnx")).graph
    assert {"members.0.layer1.0.conv1", "members.1.layer1.0.conv1"} <= {node.name for node in graph.node}


def test_the_same_request_does_nothing_twice(members: list[Path], tmp_path: Path) -> None:
    first = ensemble(members, tmp_path / "b")
    again = export(TWO, tmp_path / "b", weights=joined(members), max_batch=4)
    assert again.manifest == first.manifest
    other = export(
        TWO, tmp_path / "b", weights=joined([members[0], Path(shutil.copy(members[1], tmp_path / "x.pth"))]), max_batch=4
    )
    assert other.manifest.model.request == first.manifest.model.request  # by what is in them


def test_random_members_of_one_name_are_different_networks() -> None:
    network = create_model("ensemble:resnet20+resnet20")
    assert not torch.equal(network.members[0].conv1.weight, network.members[1].conv1.weight)


def test_tensorrt_builds_it(members: list[Path]) -> None:
    bundle = ensemble(members, head="probabilities")
    assert len(bytes(build(bundle.artifact("model.fp32.onnx")).plan)) > 100_000


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ensemble:resnet18", "two members or more"),
        ("ensemble:", "two members or more"),
        ("ensemble:resnet18+resnet20", "images or classes differ"),
        ("ensemble:resnet18+resnet1", "unknown model 'resnet1'"),
        ("ensemble:resnet18+ensemble:resnet18+resnet34", "their own options"),
    ],
)
def test_what_is_not_an_ensemble(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        architecture(name)


@pytest.mark.parametrize("head", ["features", "embedding"])
def test_an_ensemble_has_no_maps_of_its_own(head: str) -> None:
    loaded = load_model("ensemble:resnet20+resnet20")
    with pytest.raises(UsageError, match="choose logits, probabilities"):
        DeployModel(loaded.network, head=Head.parse(head), input_format=InputFormat.FLOAT, preprocessing=loaded.preprocessing)


def test_weights_that_do_not_fit_the_members(members: list[Path], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="2 members, but --weights names 3"):
        create_model(TWO, weights=f"{joined(members)},{members[0]}")
    with pytest.raises(CheckpointError, match="one file a member"):
        create_model(TWO, weights=members[0])
    with pytest.raises(CheckpointError, match="not a checkpoint of preact_resnet_cifar:8"):
        create_model(TWO, weights=f"{members[0]},{members[0]}")
    with pytest.raises(CheckpointError, match="does not exist"):
        create_model(TWO, weights=f"{members[0]},{tmp_path / 'gone.pth'}")
    with pytest.raises(CheckpointError, match="different classes"):
        torch.save(create_model(NAMES[1]).state_dict(), tmp_path / "ten.pth")
        create_model(TWO, weights=f"{members[0]},{tmp_path / 'ten.pth'}")
    with pytest.raises(CheckpointError, match="see different images"):  # the digits have a normalization of their own
        torch.save(create_model("resnet20").state_dict(), tmp_path / "plain.pth")
        create_model("ensemble:resnet20+resnet20", weights=f"{DIGITS},{tmp_path / 'plain.pth'}")


# Ten crops.


@pytest.mark.parametrize("name", ["logits", "probabilities"])
def test_views_are_averaged_as_probabilities(name: str) -> None:
    scores = np.random.default_rng(0).normal(0, 20, (3 * 10, 7))
    exact = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    expected = exact.reshape(3, 10, 7).mean(1)
    if name == "logits":
        found = average_views(name, scores.astype(np.float32), 10)
        np.testing.assert_allclose(np.exp(found), expected, rtol=1e-5)
    else:
        np.testing.assert_allclose(average_views(name, exact.astype(np.float32), 10), expected, rtol=1e-5)


def test_views_far_apart_stay_finite() -> None:
    found = average_views("logits", np.array([[0.0, 5000.0], [5.0, 0.0]], np.float32), 2)
    np.testing.assert_allclose(found, [[np.log((np.exp(-0.0067153)) / 2), np.log((1 + np.exp(-5.0067153)) / 2)]], rtol=1e-4)


def test_verify_with_ten_crops(tmp_path: Path) -> None:
    """Each image by hand: ten crops, the mean of their probabilities, the class of the largest."""
    from resnet_deploy.data.sources import open_data

    bundle = export("resnet20", tmp_path / "b", weights=DIGITS, resize=36, max_batch=4)
    (found,) = verify(bundle, "digits", limit=30, crops=10, threads=1)
    assert found.gate == "pass" and found.data.crops == 10 and found.report.images == 30
    preprocessing = bundle.manifest.model.preprocessing
    dataset = open_data("digits", preprocessing=preprocessing, input_format=InputFormat.FLOAT, limit=30, crops=10)
    network, correct = create_model("resnet20", weights=DIGITS), 0
    for part in dataset.batches(6):
        assert part.images.shape == (6, 10, 3, 32, 32)
        with torch.inference_mode():
            mean = torch.softmax(network(torch.from_numpy(part.images).flatten(0, 1)), 1).view(6, 10, 10).mean(1)
        correct += int((mean.argmax(1).numpy() == part.labels).sum())
    assert found.report.top1_accuracy == correct / 30
    (single,) = verify(bundle, "digits", limit=30, threads=1)
    assert single.report.max_abs_error != found.report.max_abs_error  # another record, not the same one again
    assert len(Bundle.open(bundle.path).manifest.parity) == 2


def test_ten_crops_need_scores() -> None:
    bundle = exported("resnet20", weights=DIGITS, input="uint8", head="embedding", max_batch=2)
    with pytest.raises(UsageError, match="head embedding has none"):
        verify(bundle, "digits", crops=10)
