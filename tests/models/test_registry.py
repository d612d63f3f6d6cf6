"""Beyond torchvision's table: plain networks, shortcuts, pre-activation, ResNeXt's forms, SE, ResNet-D, dilation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from resnet_deploy.errors import UsageError
from resnet_deploy.models import registry
from resnet_deploy.models.complexity import complexity
from resnet_deploy.models.config import CHOICES
from resnet_deploy.models.create import create_model
from resnet_deploy.models.preact import RearrangedBlock
from tests.helpers.peers import timm, torchvision

# Counted from the papers' tables. The table's rows are in test_models.py.
PARAMETERS = {
    "resnet18:shortcut=A": 11_515_688,
    "resnet34:shortcut=A": 21_623_848,
    "resnet34:shortcut=C": 22_716_840,
    "resnet_cifar:20": 269_722,
    "preact_resnet_cifar:164,block=bottleneck": 1_703_258,
}


def parametrized(name: str, **shape: object) -> nn.Module:
    """A network whose batch norms are not the identity."""
    model = create_model(name, **shape)
    generator = torch.Generator().manual_seed(0)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor, low in ((layer.weight, 0.5), (layer.bias, -0.5), (layer.running_mean, -0.5), (layer.running_var, 0.5)):
                tensor.data.uniform_(low, low + 1, generator=generator)
    return model


@pytest.mark.parametrize(("name", "count"), PARAMETERS.items())
def test_parameters(name: str, count: int) -> None:
    assert complexity(registry.architecture(name)).parameters == count


def test_the_papers_stride_costs_what_the_paper_says() -> None:
    assert complexity(registry.architecture("resnet50:stride_on=1x1")).macs / 1e9 == pytest.approx(3.858, abs=0.001)


def test_shapes_by_keyword_and_by_name_are_one() -> None:
    by_keyword = create_model("resnet", layers=(1, 1, 1, 1), block="basic", num_classes=3)
    assert by_keyword.config == create_model("resnet:layers=1-1-1-1,block=basic", num_classes=3).config
    assert by_keyword(torch.zeros(1, 3, 64, 64)).shape == (1, 3)


def test_a_plain_network_is_the_residual_one_without_its_additions() -> None:
    plain, residual = parametrized("plain20"), parametrized("resnet20")
    plain.load_state_dict(residual.state_dict())
    x = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        found, expected = plain(x), x
        expected = residual.relu(residual.bn1(residual.conv1(x)))
        for index in (1, 2, 3):
            for block in getattr(residual, f"layer{index}"):
                expected = block.relu2(block.bn2(block.conv2(block.relu1(block.bn1(block.conv1(expected))))))
        expected = residual.fc(expected.mean((2, 3)))
    assert torch.equal(found, expected) and not torch.allclose(found, residual(x))


# 1603.05027, figure 4, written out: what a basic block does to its input and to what it adds.
FIGURE_4 = {
    "bn-after-add": lambda b, x, s: b.relu2(b.bn2(b.conv2(b.relu1(b.bn1(b.conv1(x)))) + s(x))),
    "relu-before-add": lambda b, x, s: b.relu2(b.bn2(b.conv2(b.relu1(b.bn1(b.conv1(x)))))) + s(x),
    "relu-only": lambda b, x, s: b.bn2(b.conv2(b.relu2(b.bn1(b.conv1(x.relu()))))) + s(x),
    "full": lambda b, x, s: b.conv2(b.relu2(b.bn2(b.conv1(x_ := b.bn1(x).relu())))) + s(x_ if b.downsample else x),
}


@pytest.mark.parametrize("activation", FIGURE_4)
def test_activations_stand_where_figure_4_has_them(activation: str) -> None:
    assert set(FIGURE_4) | {"original"} == set(CHOICES["activation"])
    model = parametrized("resnet20", activation=activation, shortcut="B")
    x = torch.randn(2, 16, 16, 16)
    for block in (model.layer1[1], model.layer2[0]):  # an identity, and a shortcut that changes the shape
        assert isinstance(block, RearrangedBlock)
        before = x.clone()
        with torch.inference_mode():
            found = block(x)
            expected = FIGURE_4[activation](block, x.clone(), block.downsample or (lambda t: t))
        torch.testing.assert_close(found, expected)
        assert torch.equal(x, before), "the shortcut's input was overwritten"


def test_the_first_and_the_last_unit_of_a_pre_activated_network() -> None:
    """The first shares the stem's BN and ReLU, the last addition gets its own (1603.05027, appendix)."""
    model = create_model("preact_resnet_cifar:20")
    assert not hasattr(model.layer1[0], "bn1") and hasattr(model.layer1[1], "bn1")
    assert isinstance(model.bn_last, nn.BatchNorm2d) and isinstance(model.relu_last, nn.ReLU)


def test_resnexts_three_forms_are_one_function() -> None:
    """1611.05431, figure 3: (a) split branches summed, (b) branches concatenated early, (c) a grouped convolution."""
    block = parametrized("resnext50_32x4d").layer1[0].double()
    x = torch.randn(2, 64, 8, 8, dtype=torch.float64)
    conv = nn.functional.conv2d
    with torch.inference_mode():
        grouped = block.bn3(block.conv3(block.relu2(block.bn2(block.conv2(block.relu1(block.bn1(block.conv1(x))))))))
        paths = []
        for group in range(32):
            part = slice(4 * group, 4 * group + 4)
            inner = conv(x, block.conv1.weight[part])
            inner = norm(block.bn1, inner, part).relu()
            inner = conv(inner, block.conv2.weight[part], padding=1)
            paths.append(norm(block.bn2, inner, part).relu())
        summed = sum(conv(path, block.conv3.weight[:, 4 * g : 4 * g + 4]) for g, path in enumerate(paths))
        concatenated = conv(torch.cat(paths, dim=1), block.conv3.weight)
        torch.testing.assert_close(block.bn3(summed), grouped)
        torch.testing.assert_close(block.bn3(concatenated), grouped)


def norm(layer: nn.BatchNorm2d, x: torch.Tensor, part: slice) -> torch.Tensor:
    return nn.functional.batch_norm(x, layer.running_mean[part], layer.running_var[part], layer.weight[part], layer.bias[part])


@pytest.mark.parametrize("name", ["resnet50", "resnet50d", "resnext50_32x4d", "seresnet50"])
def test_timms_checkpoints_load_and_agree(name: str) -> None:
    peer = timm().create_model(name).eval()
    for layer in peer.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.weight.data.uniform_(0.5, 1.5)
            layer.running_mean.uniform_(-0.5, 0.5)
            layer.running_var.uniform_(0.5, 1.5)
    ours = create_model(name)
    assert list(ours.state_dict()) == list(peer.state_dict())
    ours.load_state_dict(peer.state_dict(), strict=True)
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), peer(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dilate", [(False, False, True), (False, True, True)])
def test_dilated_networks_are_torchvisions(dilate: tuple[bool, ...]) -> None:
    peer = torchvision().models.resnet50(replace_stride_with_dilation=dilate).eval()
    ours = create_model("resnet50", replace_stride_with_dilation=dilate)
    ours.load_state_dict(peer.state_dict(), strict=True)
    x = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(ours(x), peer(x))


IMAGENET = [name for name, row in registry.ARCHITECTURES.items() if row.config.stem != "cifar"]


@pytest.mark.parametrize("stride", [8, 16, 32])
@pytest.mark.parametrize("name", IMAGENET)
def test_backbones_at_every_output_stride(name: str, stride: int) -> None:
    with torch.device("meta"):
        from resnet_deploy.models.resnet import ResNet

        model = ResNet(registry.architecture(f"{name}:output_stride={stride}").config).eval()
        maps = model.forward_features(torch.empty(1, 3, 128, 128))
    assert [128 // m.shape[-1] for m in maps] == [min(s, stride) for s in (4, 8, 16, 32)]


def test_published_weights_survive_dilation_and_no_other_change() -> None:
    assert registry.architecture("resnet50:output_stride=8").weights
    assert not registry.architecture("resnet50:stride_on=1x1").weights


class PyramidHead(nn.Module):
    """A detector's neck as 1612.03144 has it: lateral 1x1 convolutions and a top-down path over C2 to C5."""

    def __init__(self, channels: list[int]) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(count, 32, 1) for count in channels)

    def forward(self, maps: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
        found = [layer(x) for layer, x in zip(self.lateral, maps, strict=True)]
        for low, high in ((2, 3), (1, 2), (0, 1)):
            found[low] = found[low] + nn.functional.interpolate(found[high], scale_factor=2.0)
        return found


def test_resnet101_in_the_place_of_vgg16_under_a_pyramid() -> None:
    """1512.03385, appendix A: the backbone is exchanged, the detector's layers stay."""
    backbone = create_model("resnet101")
    with torch.inference_mode():
        maps = backbone.forward_features(torch.randn(1, 3, 64, 96))
        levels = PyramidHead([m.shape[1] for m in maps])(maps)
    assert [tuple(m.shape) for m in maps] == [(1, 256, 16, 24), (1, 512, 8, 12), (1, 1024, 4, 6), (1, 2048, 2, 3)]
    assert [tuple(level.shape[2:]) for level in levels] == [(16, 24), (8, 12), (4, 6), (2, 3)]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet_cifar:21", "6n\\+2 layers; 21 is not one, 20 is"),
        ("resnet_cifar:32,block=bottleneck", "9n\\+2"),
        ("resnet50:shortcut=Z", "unknown shortcut 'Z'"),
        ("resnet50:shortcut", "not an option"),
        ("resnet50:colour=red", "unknown option 'colour'"),
        ("resnet50:layers=3-x", "joined by -"),
        ("resnet50:layers=0-1-1-1", "layers has 0; expected whole numbers from 1 to 2000"),
        ("resnet50:output_stride=7", "choose from"),
        ("resnet50:replace_stride_with_dilation=1", "needs 3 values"),
        ("resnet18:groups=32", "needs? block=bottleneck"),
        ("preresnet18", "preact_resnet18"),
    ],
)
def test_shapes_that_cannot_be_meant(name: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        registry.architecture(name)


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_pre_activated_networks_have_the_original_convolutions(depth: int) -> None:
    def convolutions(name: str) -> dict[str, tuple[int, ...]]:
        with torch.device("meta"):
            state = create_model(name).state_dict()
        # A projection is a layer of its own in one, the first of two in the other.
        return {n.replace("downsample.0", "downsample"): tuple(t.shape) for n, t in state.items() if t.ndim == 4}

    assert convolutions(f"preact_resnet{depth}") == convolutions(f"resnet{depth}")


def test_random_weights_keep_their_range_to_a_thousand_layers() -> None:
    """Without statistics in the batch norms each block doubles the variance: 2^600 is Inf."""
    for name in ("resnet_cifar:602", "preact_resnet_cifar:602"):
        with torch.inference_mode():
            logits = create_model(name)(torch.randn(2, 3, 32, 32))
        assert logits.isfinite().all() and logits.abs().max() < 100
