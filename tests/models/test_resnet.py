"""Architectures against torchvision's, the papers' figures and hand-counted values; the deployed model against numpy."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from resnet_deploy.data.preprocessing import normalize
from resnet_deploy.errors import UsageError
from resnet_deploy.models import registry
from resnet_deploy.models.blocks import BasicBlock, PaddedIdentity
from resnet_deploy.models.catalogue import describe_models
from resnet_deploy.models.complexity import complexity
from resnet_deploy.models.create import create_model
from resnet_deploy.models.deploy import DeployModel
from resnet_deploy.models.resnet import ResNet
from resnet_deploy.specs import Head, InputFormat, Preprocessing, TensorSpec
from tests.helpers.networks import randomize
from tests.helpers.peers import torchvision

IMAGENET = [row.name for row in registry.ARCHITECTURES.values() if row.weights]  # those of torchvision
CIFAR = ["resnet20", "resnet32", "resnet44", "resnet56", "resnet110"]

PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "resnext50_32x4d": 25_028_904,
    "resnext101_32x8d": 88_791_336,
    "resnext101_64x4d": 83_455_272,
    "wide_resnet50_2": 68_883_240,
    "wide_resnet101_2": 126_886_696,
    "resnet20": 269_722,
    "resnet32": 464_154,
    "resnet44": 658_586,
    "resnet56": 853_018,
    "resnet110": 1_727_962,
    "resnet1202": 19_421_274,
    "seresnet50": 28_088_024,
    "resnet50d": 25_576_264,
    "plain18": 11_515_688,
    "plain34": 21_623_848,
    "plain20": 269_722,
    "plain32": 464_154,
    "plain44": 658_586,
    "plain56": 853_018,
    "plain110": 1_727_962,
    # Counted by hand from 1603.05027 for 164, 200 and 1001; the convolutions are those of the original networks.
    "preact_resnet18": 11_687_720,
    "preact_resnet34": 21_795_880,
    "preact_resnet50": 25_549_352,
    "preact_resnet101": 44_541_480,
    "preact_resnet152": 60_185_128,
    "preact_resnet200": 64_666_152,
    "preact_resnet110": 1_727_962,
    "preact_resnet164": 1_703_258,
    "preact_resnet1001": 10_327_706,
    "resnext29_8x64d": 34_426_698,
    "resnext29_16x64d": 68_155_210,
}
GMACS = {
    "resnet18": 1.814,
    "resnet34": 3.664,
    "resnet50": 4.089,
    "resnet101": 7.801,
    "resnet152": 11.514,
    "resnext50_32x4d": 4.230,
    "resnext101_32x8d": 16.414,
}


def images(count: int = 2, size: int = 64) -> torch.Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1))


# What the table says.


def test_every_architecture_has_a_reference_count() -> None:
    assert set(PARAMETERS) == set(registry.list_models())


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_and_macs(name: str) -> None:
    cost = complexity(registry.architecture(name))
    assert cost.parameters == PARAMETERS[name]
    if name in GMACS:
        assert cost.macs == pytest.approx(GMACS[name] * 1e9, rel=0.005)


def test_complexity_follows_classes_and_size() -> None:
    row = registry.architecture("resnet18")
    large = complexity(row, num_classes=10, image_size=448)
    assert large.parameters == PARAMETERS["resnet18"] - 990 * 513  # 512 weights and a bias a class
    assert large.macs == 4 * (complexity(row).macs - 512 * 1000) + 512 * 10


def test_catalogue_has_a_row_for_each() -> None:
    rows = {row["name"]: row for row in (model.to_dict() for model in describe_models())}
    assert list(rows) == registry.list_models()
    assert {name: row["parameters"] for name, row in rows.items()} == PARAMETERS
    assert rows["resnet50"]["weights"][-1] == {"name": "IMAGENET1K_V2", "top1_percent": 80.858}


@pytest.mark.parametrize("name", IMAGENET)
def test_published_weights_are_torchvisions(name: str) -> None:
    enum = torchvision().models.get_model_weights(name)
    theirs = {
        weights.name: (
            weights.url.rsplit("/", 1)[1],
            weights.meta["_metrics"]["ImageNet-1K"]["acc@1"],
            weights.transforms.keywords.get("resize_size", 256),
        )
        for weights in enum
    }
    row = registry.architecture(name)
    assert {key: (w.file, w.top1_percent, w.resize) for key, w in row.weights.items()} == theirs
    assert row.published("DEFAULT")[0] == enum.DEFAULT.name
    assert all(weights.transforms.keywords["crop_size"] == row.image_size for weights in enum)


# The networks.


@pytest.mark.parametrize("name", IMAGENET)
def test_torchvisions_state_dict_loads_strictly(name: str) -> None:
    with torch.device("meta"):
        theirs = torchvision().models.get_model(name).state_dict()
        ours = ResNet(registry.architecture(name).with_classes(1000))
    assert [(key, value.shape) for key, value in ours.state_dict().items()] == [(k, v.shape) for k, v in theirs.items()]
    ours.load_state_dict(theirs, strict=True, assign=True)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2"])
def test_logits_are_bit_equal_to_torchvisions(name: str) -> None:
    with torch.device("meta"):
        theirs = torchvision().models.get_model(name)
        ours = ResNet(registry.architecture(name).with_classes(1000)).eval()
    theirs.to_empty(device="cpu").eval()
    randomize(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True, assign=True)
    x = images()
    with torch.inference_mode():
        expected = theirs(x)
        assert torch.equal(ours(x), expected)
    assert expected.isfinite().all()
    assert expected.std() > 0.01 and not torch.equal(expected[0], expected[1])


def test_padded_identity_values() -> None:
    x = torch.arange(1.0, 33.0).view(1, 2, 4, 4)
    out = PaddedIdentity(2, 5, stride=2)(x)
    kept = torch.tensor([[[1.0, 3.0], [9.0, 11.0]], [[17.0, 19.0], [25.0, 27.0]]])
    zeros = torch.zeros(1, 2, 2)
    assert torch.equal(out[0], torch.cat([zeros, kept, zeros, zeros]))  # the odd channel goes to the end


@pytest.mark.parametrize("name", CIFAR)
def test_cifar_networks_have_6n_plus_2_layers_and_free_shortcuts(name: str) -> None:
    with torch.device("meta"):
        network = ResNet(registry.architecture(name).with_classes(10))
    shortcuts = [block.downsample for block in network.modules() if isinstance(block, BasicBlock) and block.downsample]
    assert [type(shortcut) for shortcut in shortcuts] == [PaddedIdentity] * 2
    assert not [key for key in network.state_dict() if "downsample" in key]
    assert sum(isinstance(layer, (nn.Conv2d, nn.Linear)) for layer in network.modules()) == int(name.removeprefix("resnet"))


@pytest.mark.parametrize(
    ("name", "size", "shapes"),
    [
        ("resnet20", 32, [(16, 32, 32), (32, 16, 16), (64, 8, 8)]),
        ("resnet18", 224, [(64, 56, 56), (128, 28, 28), (256, 14, 14), (512, 7, 7)]),
        ("resnext50_32x4d", 224, [(256, 56, 56), (512, 28, 28), (1024, 14, 14), (2048, 7, 7)]),
    ],
)
def test_feature_map_sizes(name: str, size: int, shapes: list[tuple[int, ...]]) -> None:
    with torch.device("meta"):
        network = ResNet(registry.architecture(name).with_classes(10))
        maps = network.forward_features(torch.empty(2, 3, size, size))
    assert [tuple(features.shape) for features in maps] == [(2, *shape) for shape in shapes]
    assert network.embedding_dim == shapes[-1][0]


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet20"])
def test_in_place_operations_change_neither_the_input_nor_the_maps(name: str) -> None:
    network = create_model(name)
    x = images()
    before = x.clone()
    with torch.inference_mode():
        maps = network.forward_features(x)
        assert torch.equal(x, before)
        stage = network.maxpool(network.relu(network.bn1(network.conv1(x))))
        for index, features in enumerate(maps, start=1):
            stage = getattr(network, f"layer{index}")(stage).clone()
            assert torch.equal(features, stage)


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "resnet20"])
def test_each_activation_is_a_module_of_its_own(name: str) -> None:
    network = create_model(name)
    calls: Counter[str] = Counter()
    for path, layer in network.named_modules(remove_duplicate=False):
        if isinstance(layer, nn.ReLU):
            layer.register_forward_hook(lambda *_, path=path: calls.update([path]))
    with torch.inference_mode():
        network(images(1, 32))
    sites = 1 + sum(3 if name == "resnet50" else 2 for block in network.modules() if hasattr(block, "conv2"))
    assert len(calls) == sites and set(calls.values()) == {1}


def test_he_initialization_by_fan_out() -> None:
    weight = create_model("resnet18").layer4[0].conv1.weight  # 256 channels in, 512 out
    assert float(weight.detach().std()) == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)


def test_random_weights_are_seeded_and_leave_the_generator_alone() -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first = create_model("resnet20").state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(3)
    second = create_model("resnet20").state_dict()
    assert all(torch.equal(first[key], second[key]) for key in first)


# Names.


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet5", "resnet50"),
        ("ResNet-50", "resnet50"),
        ("resnext50-32x4d", "resnext50_32x4d"),
        ("wide_resnet50", "wide_resnet50_2"),
        ("RESNET_18", "resnet18"),
    ],
)
def test_an_unknown_name_suggests_the_nearest(name: str, expected: str) -> None:
    with pytest.raises(UsageError, match="unknown model") as caught:
        create_model(name)
    assert expected in str(caught.value).partition("did you mean")[2]


def test_a_name_like_no_other_points_to_the_list() -> None:
    with pytest.raises(UsageError, match="`resnet-deploy models` lists them"):
        create_model("vgg")


def test_num_classes() -> None:
    network = create_model("resnet20", num_classes=7)
    assert not network.training
    assert network(images(2, 32)).shape == (2, 7)
    with pytest.raises(UsageError, match="1 to 10000000 classes; found 0"):
        create_model("resnet20", num_classes=0)


# The deployed model.


def deployed(
    head: str = "logits", name: str = "resnet20", format: str = "float", size: int = 32, **options: Any
) -> DeployModel:
    network = create_model(name)
    randomize(network)
    preprocessing = Preprocessing(resize=size, crop=size)
    return DeployModel(network, head=Head.parse(head, **options), input_format=InputFormat(format), preprocessing=preprocessing)


def test_uint8_input_equals_float_input_normalized_by_data() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    pixels[0], pixels[1] = 0, 255
    model = deployed(format="uint8")
    normalized = torch.from_numpy(normalize(pixels, model.preprocessing))
    torch.testing.assert_close(model.pixels(torch.from_numpy(pixels)), normalized, rtol=0, atol=1e-5)
    with torch.inference_mode():
        torch.testing.assert_close(model(torch.from_numpy(pixels)), deployed()(normalized), rtol=0, atol=1e-5)


@torch.inference_mode()
def test_heads() -> None:
    x = images(3, 32)
    network = deployed().network
    logits = network(x)
    assert torch.equal(deployed("logits")(x), logits)
    probabilities = deployed("probabilities")(x)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(3))
    torch.testing.assert_close(probabilities.log(), logits - logits.logsumexp(dim=1, keepdim=True))
    embedding = deployed("embedding")(x)
    assert embedding.shape == (3, 64)
    torch.testing.assert_close(network.fc(embedding), logits)
    unit = deployed("embedding", l2_normalize=True)(x)
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(unit * embedding.norm(dim=1, keepdim=True), embedding)


@torch.inference_mode()
@pytest.mark.parametrize("k", [1, 5, 10])
def test_topk_head(k: int) -> None:
    x = images(3, 32)
    values, indices = deployed(f"topk:{k}")(x)
    expected = torch.topk(torch.softmax(deployed()(x), dim=1), k, dim=1)
    assert torch.equal(values, expected.values) and torch.equal(indices, expected.indices)


def test_topk_of_more_classes_than_there_are() -> None:
    with pytest.raises(UsageError, match="topk:11 asks for more classes than the 10"):
        deployed("topk:11")


@torch.inference_mode()
def test_features_head_has_strides_4_to_32() -> None:
    model = deployed("features", "resnet18", size=64)
    assert model.output_names == ("features_c2", "features_c3", "features_c4", "features_c5")
    x = images()
    maps = model(x)
    assert [tuple(f.shape) for f in maps] == [(2, 64, 16, 16), (2, 128, 8, 8), (2, 256, 4, 4), (2, 512, 2, 2)]
    torch.testing.assert_close(maps[-1].mean(dim=(2, 3)), model.network.forward_embedding(x))


@pytest.mark.parametrize(
    ("head", "outputs"),
    [
        ("logits", ["logits float32 [batch, 10]"]),
        ("probabilities", ["probabilities float32 [batch, 10]"]),
        ("embedding", ["embedding float32 [batch, 64]"]),
        ("topk:3", ["topk_values float32 [batch, 3]", "topk_indices int64 [batch, 3]"]),
        (
            "features",
            [
                "features_c2 float32 [batch, 16, 32, 32]",
                "features_c3 float32 [batch, 32, 16, 16]",
                "features_c4 float32 [batch, 64, 8, 8]",
            ],
        ),
    ],
)
@pytest.mark.parametrize("half", [False, True], ids=["fp32", "fp16"])
def test_output_specs(head: str, outputs: list[str], half: bool) -> None:
    model = deployed(head, format="uint8")
    if half:
        model.network.half()
    assert [str(spec) for spec in model.output_specs()] == outputs


def test_input_specs() -> None:
    assert deployed().input_spec == TensorSpec(name="input", dtype="float32", shape=("batch", 3, 32, 32))
    assert deployed(format="uint8", size=48).input_spec == TensorSpec(name="input", dtype="uint8", shape=("batch", 48, 48, 3))


@torch.inference_mode()
@pytest.mark.parametrize("head", ["logits", "probabilities", "embedding", "features", "topk:3"])
def test_a_half_precision_network_answers_in_float32(head: str) -> None:
    x = images(2, 32)
    model = deployed(head)
    expected = model(x)
    model.network.half()
    actual = model(x)
    torch.testing.assert_close(actual, expected, rtol=0.02, atol=0.02)  # and of the same dtypes
