"""For every type of block, the exact list of quantized tensors and of who reads them."""

from __future__ import annotations

import pytest

from resnet_deploy.errors import UsageError
from resnet_deploy.precision.blocks import block_of, blocks_of, leaving
from resnet_deploy.precision.placement import Target, additions, gates, grouped, place
from tests.helpers.precision_graphs import BLOCKS, graph_of

pytestmark = pytest.mark.slow

# tensor: its quantized readers. `+` is the block's addition.
STEM = {"input": ["conv1"]}
POOLED = {"layer1.0": {"maxpool": ["layer1.0.conv1", "layer1.0.downsample.0"]}}


def bottleneck(block: str, following: str | None) -> dict[str, list[str]]:
    """A bottleneck with a projection: conv2 and conv3 read ReLUs, the addition the projection."""
    found = {
        f"{block}.relu1": [f"{block}.conv2"],
        f"{block}.relu2": [f"{block}.conv3"],
        f"{block}.downsample.0": [f"{block}.add"],
    }
    return found | ({f"{block}.relu3": [f"{following}.conv1", f"{following}.downsample.0"]} if following else {})


BOTTLENECK = STEM | POOLED["layer1.0"] | bottleneck("layer1.0", "layer2.0") | bottleneck("layer2.0", None)


def cifar(prefix: str = "", *, residual: bool = True) -> dict[str, list[str]]:
    """Three basic blocks; the shortcuts of the last two are padded."""
    p = prefix
    return {
        f"{p}relu": [f"{p}layer1.0.conv1"] + [f"{p}layer1.0.add"] * residual,
        f"{p}layer1.0.relu1": [f"{p}layer1.0.conv2"],
        f"{p}layer1.0.relu2": [f"{p}layer2.0.conv1"],
        f"{p}layer2.0.relu1": [f"{p}layer2.0.conv2"],
        **({f"{p}layer2.0.downsample.pad": [f"{p}layer2.0.add"]} if residual else {}),
        f"{p}layer2.0.relu2": [f"{p}layer3.0.conv1"],
        f"{p}layer3.0.relu1": [f"{p}layer3.0.conv2"],
        **({f"{p}layer3.0.downsample.pad": [f"{p}layer3.0.add"]} if residual else {}),
    }


TENSORRT = {
    "basic": STEM
    | {
        "maxpool": ["layer1.0.conv1", "layer1.0.add"],
        "layer1.0.relu1": ["layer1.0.conv2"],
        "layer1.0.relu2": ["layer2.0.conv1", "layer2.0.downsample.0"],
        "layer2.0.relu1": ["layer2.0.conv2"],
        "layer2.0.downsample.0": ["layer2.0.add"],
    },
    "bottleneck": BOTTLENECK,
    "grouped": BOTTLENECK,
    "squeeze": BOTTLENECK,  # the gate's own convolutions stay as they are
    "deep stem, pooled shortcut": {
        "input": ["conv1.0"],
        "conv1.2.relu": ["conv1.3"],
        "conv1.5.relu": ["conv1.6"],
        "maxpool": ["layer1.0.conv1", "layer1.0.add"],
        "layer1.0.relu1": ["layer1.0.conv2"],
        "layer1.0.relu2": ["layer2.0.conv1"],
        "layer2.0.relu1": ["layer2.0.conv2"],
        "layer2.0.downsample.0.averagepool": ["layer2.0.downsample.1"],
        "layer2.0.downsample.1": ["layer2.0.add"],
    },
    "padded shortcut": STEM | cifar(),
    "plain": STEM | cifar(residual=False),
    # What the convolutions read lies behind BN and ReLU; the additions' skip sides before them.
    "pre-activation": STEM
    | {
        "relu": ["layer1.0.conv1", "layer1.0.add"],
        "layer1.0.relu2": ["layer1.0.conv2"],
        "layer2.0.relu1": ["layer2.0.conv1"],
        "layer2.0.relu2": ["layer2.0.conv2"],
        "layer2.0.downsample.pad": ["layer2.0.add"],
        "layer3.0.relu1": ["layer3.0.conv1"],
        "layer3.0.relu2": ["layer3.0.conv2"],
        "layer3.0.downsample.pad": ["layer3.0.add"],
    },
    "pre-activation bottleneck": STEM
    | {
        "maxpool": ["layer1.0.conv1", "layer1.0.downsample"],
        "layer1.0.relu2": ["layer1.0.conv2"],
        "layer1.0.relu3": ["layer1.0.conv3"],
        "layer1.0.downsample": ["layer1.0.add"],
        "layer2.0.relu1": ["layer2.0.conv1", "layer2.0.downsample"],
        "layer2.0.relu2": ["layer2.0.conv2"],
        "layer2.0.relu3": ["layer2.0.conv3"],
        "layer2.0.downsample": ["layer2.0.add"],
    },
    "ensemble": {"input": ["members.0.conv1", "members.1.conv1"]} | cifar("members.0.") | cifar("members.1.", residual=False),
}


@pytest.mark.parametrize("block", BLOCKS)
def test_tensorrt_quantizes_what_convolutions_and_skips_read(block: str) -> None:
    found = place(graph_of(BLOCKS[block]), Target.TENSORRT)
    assert {name: sorted(readers) for name, readers in found.activations.items()} == {
        name: sorted(readers) for name, readers in TENSORRT[block].items()
    }


def test_identity_blocks_share_the_pair_of_the_first_convolution() -> None:
    found = place(graph_of("resnet:layers=2-1"), Target.TENSORRT).activations
    assert found["layer1.0.relu3"] == ("layer1.1.conv1", "layer1.1.add")
    preact = place(graph_of("preact_resnet_cifar:14"), Target.TENSORRT).activations
    assert preact["layer2.0.add"] == ("layer2.1.add",) and preact["layer2.1.relu1"] == ("layer2.1.conv1",)


@pytest.mark.parametrize("block", BLOCKS)
def test_no_convolution_is_parted_from_its_own_addition(block: str) -> None:
    graph = graph_of(BLOCKS[block])
    activations = place(graph, Target.TENSORRT).activations
    for addition, (main, skip) in additions(graph).items():
        assert addition not in activations.get(main, ()) and addition in activations[skip]


CPU = {
    "basic": "input relu maxpool layer1.0.relu1 layer1.0.conv2 layer1.0.relu2 layer2.0.relu1 layer2.0.conv2 "
    "layer2.0.downsample.0 layer2.0.relu2",
    "squeeze": "input relu maxpool layer1.0.relu1 layer1.0.relu2 layer1.0.conv3 layer1.0.downsample.0 layer1.0.se.mul "
    "layer1.0.relu3 layer2.0.relu1 layer2.0.relu2 layer2.0.conv3 layer2.0.downsample.0 layer2.0.se.mul layer2.0.relu3",
    "plain": "input relu layer1.0.relu1 layer1.0.relu2 layer2.0.relu1 layer2.0.relu2 layer3.0.relu1 layer3.0.relu2",
    "pre-activation": "input relu layer1.0.relu2 layer1.0.conv2 layer1.0.add layer2.0.relu1 layer2.0.relu2 layer2.0.conv2 "
    "layer2.0.downsample.pad layer2.0.add layer3.0.relu1 layer3.0.relu2 layer3.0.conv2 layer3.0.downsample.pad layer3.0.add",
}


@pytest.mark.parametrize("block", CPU)
def test_cpu_quantizes_both_sides_of_every_kernel(block: str) -> None:
    graph = graph_of(BLOCKS[block])
    found = place(graph, Target.CPU).activations
    assert list(found) == CPU[block].split()
    for name, readers in found.items():  # all of them, so that the pair can be dropped between two kernels
        assert list(readers) == [node.name for node in graph.used_by[name]]


def test_gates_are_those_of_squeeze_and_excitation() -> None:
    assert gates(graph_of(BLOCKS["squeeze"])) == {f"layer{i}.0.se.fc{j}" for i in (1, 2) for j in (1, 2)}
    assert not gates(graph_of(BLOCKS["basic"]))


def test_grouped_are_those_with_groups() -> None:
    assert grouped(graph_of(BLOCKS["grouped"])) == ["layer1.0.conv2", "layer2.0.conv2"]
    assert not grouped(graph_of(BLOCKS["bottleneck"]))


def test_what_is_kept_is_not_quantized_and_neither_is_its_addition() -> None:
    graph = graph_of(BLOCKS["basic"])
    found = place(graph, Target.TENSORRT, keep=["layer2.0"])
    assert not [name for name in found.convolutions if name.startswith("layer2.0")]
    assert "layer2.0.downsample.0" not in found.activations and "layer2.0.relu1" not in found.activations
    assert found.activations["layer1.0.relu1"] == ("layer1.0.conv2",)
    assert "fc" in place(graph, Target.TENSORRT, head=True).convolutions
    with pytest.raises(UsageError, match=r"no layer or module is called layer9"):
        place(graph, Target.TENSORRT, keep=["layer9"])
    assert (
        place(graph, Target.TENSORRT, keep=["layer1"]).convolutions
        == place(graph, Target.TENSORRT, keep=["layer1.0"]).convolutions
    )  # a stage is a prefix too


def test_blocks_and_what_leaves_them() -> None:
    graph = graph_of(BLOCKS["ensemble"])
    assert block_of("members.1.layer2.0.conv1") == "members.1.layer2.0" and block_of("fc") == "fc"
    names = place(graph, Target.TENSORRT).convolutions
    assert blocks_of(graph, names)["members.0.layer2.0"] == ["members.0.layer2.0.conv1", "members.0.layer2.0.conv2"]
    assert leaving(graph)["members.0.layer2.0"] == "members.0.layer2.0.relu2"
    assert leaving(graph_of(BLOCKS["pre-activation"]))["layer2.0"] == "layer2.0.add"
