"""Floors: the reference numbers, the traffic that the modules themselves have, and the ceilings of this machine."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from resnet_deploy.benchmarking.roofline import devices
from resnet_deploy.benchmarking.roofline.devices import DEVICES, Ceiling, find_ceiling, measure_ceiling
from resnet_deploy.benchmarking.roofline.floor import INPUT_BYTES, VALUE_BYTES, floor
from resnet_deploy.errors import UnavailableError, UsageError
from resnet_deploy.models import registry
from resnet_deploy.models.complexity import kernels
from resnet_deploy.models.resnet import ResNet
from tests.helpers.networks import OPTIONS

RESNET50 = registry.architecture("resnet50")
OFFLINE = 2048  # images in a batch, as MLPerf's Offline has on this device


def known(name: str) -> Ceiling:
    ceiling = find_ceiling(name)
    assert ceiling is not None
    return ceiling


H200 = known("NVIDIA H200")


def test_a_network_is_the_kernels_of_an_engine() -> None:
    found = floor(RESNET50, H200, precision="int8", batch=OFFLINE)
    assert found.operations / 1e9 == pytest.approx(8.178, abs=0.0005)
    assert found.activations / 1e6 == pytest.approx(28.4, abs=0.05)
    assert found.kernels == 56  # 53 convolutions, two poolings, the classifier


@pytest.mark.parametrize(("precision", "compute", "memory", "both"), [("int8", 242, 169, 138), ("fp16", 121, 84, 69)])
def test_the_limits_of_an_h200_are_the_reference_ones(precision: str, compute: int, memory: int, both: int) -> None:
    found = floor(RESNET50, H200, precision=precision, batch=OFFLINE, input="uint8")
    thousands = [round(1e-3 / seconds) for seconds in (found.compute_s, found.memory_s, found.kernels_s)]
    assert thousands == [compute, memory, both]
    assert round(found.device_images_per_s / 1e3) == both


@pytest.mark.parametrize(("sent", "thousands"), [("uint8", 425), ("float16", 213), ("float", 106)])
def test_the_host_link_is_the_reference_one(sent: str, thousands: int) -> None:
    found = floor(RESNET50, H200, precision="int8", batch=OFFLINE, input=sent)
    assert found.host_images_per_s is not None and round(found.host_images_per_s / 1e3) == thousands


def test_float_images_are_bound_by_the_link_and_pixels_are_not() -> None:
    sent_float = floor(RESNET50, H200, precision="int8", batch=OFFLINE, input="float")
    sent_uint8 = floor(RESNET50, H200, precision="int8", batch=OFFLINE, input="uint8")
    assert (sent_float.bound, sent_uint8.bound) == ("host link", "memory")
    assert sent_float.images_per_s == sent_float.host_images_per_s
    assert sent_uint8.images_per_s == sent_uint8.device_images_per_s
    assert floor(RESNET50, known("T4"), precision="fp32", input="uint8").bound == "compute"


def test_what_is_reached_is_a_percentage_of_the_floor() -> None:
    found = floor(RESNET50, H200, precision="int8", batch=OFFLINE, input="float")
    assert found.device_reached_percent(96_029) == pytest.approx(69.6, abs=0.05)  # MLPerf's Offline on this device
    assert found.reached_percent(found.images_per_s) == pytest.approx(100)
    assert found.reached_percent(found.images_per_s / 4) == pytest.approx(25)
    assert found.to_dict()["images_per_s"] == found.images_per_s


def moved(row: registry.Architecture, size: int) -> tuple[int, int]:
    """Elements that the convolutions of the built modules read and write, and that the additions read beside them."""
    total = skips = 0

    def count(_: Any, inputs: Any, output: Any) -> None:
        nonlocal total
        total += inputs[0].numel() + output.numel()

    def count_skip(_: Any, __: Any, output: Any) -> None:
        nonlocal skips
        skips += output.numel()

    with torch.device("meta"), torch.no_grad():
        network = ResNet(row.config).eval()
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_hook(count)
            if hasattr(layer, "_residual") and layer._residual and not hasattr(layer, "se"):
                layer.register_forward_hook(count_skip)
        network(torch.empty(1, 3, size, size))
    return total, skips


@pytest.mark.parametrize("name", [*list(registry.ARCHITECTURES)[::4], *OPTIONS, "plain18", "preact_resnet50", "seresnet50"])
def test_the_traffic_of_convolutions_is_that_of_the_modules(name: str) -> None:
    row = registry.architecture(name)
    for size in {min(row.image_size, 224), 97}:
        convs = [kernel for kernel in kernels(row, image_size=size) if kernel.kind == "conv"]
        assert sum(kernel.reads + kernel.writes for kernel in convs) == sum(moved(row, size))


@pytest.mark.parametrize(
    ("name", "kind", "count"),
    [
        ("resnet50", "pointwise", 0),
        ("resnet34:shortcut=A", "pad", 3),
        ("seresnet50", "pointwise", 16),  # scale, add and ReLU of each block
        ("preact_resnet18", "pointwise", 4),  # 8 blocks: not the first one, nor the three that change the shape
        ("preact_resnet18:shortcut=none", "pointwise", 0),  # nothing else needs the sum
        ("resnet18:activation=relu-only", "pointwise", 7),  # that shortcut never starts behind the ReLU
        ("resnet50d", "pool", 5),  # three shortcuts, the stem's and the last
        ("resnet20", "pool", 1),
    ],
)
def test_what_cannot_be_fused_is_a_kernel_of_its_own(name: str, kind: str, count: int) -> None:
    assert sum(kernel.kind == kind for kernel in kernels(registry.architecture(name))) == count


def test_a_preactivated_network_moves_more_and_an_ensemble_what_its_members_do() -> None:
    plain, rearranged = (
        sum(k.reads + k.writes for k in kernels(registry.architecture(n))) for n in ("resnet50", "preact_resnet50")
    )
    assert rearranged > plain
    both = floor(registry.architecture("ensemble:resnet18+resnet50"), H200, precision="fp16")
    parts = [floor(registry.architecture(name), H200, precision="fp16").kernels_s for name in ("resnet18", "resnet50")]
    assert both.kernels_s == pytest.approx(sum(parts))


@settings(max_examples=60)
@given(
    name=st.sampled_from(sorted(registry.ARCHITECTURES)), ceiling=st.sampled_from(DEVICES),
    precision=st.sampled_from([*VALUE_BYTES]),
    batch=st.integers(1, 4096), sent=st.sampled_from([*INPUT_BYTES]),
)  # fmt: skip
def test_a_floor_is_never_above_a_roof(name: str, ceiling: Ceiling, precision: str, batch: int, sent: str) -> None:
    row = registry.architecture(name)
    if precision not in ceiling.flop_s:
        with pytest.raises(UsageError, match="no ceiling"):
            floor(row, ceiling, precision=precision)
        return
    found = floor(row, ceiling, precision=precision, batch=batch, input=sent)
    assert max(found.compute_s, found.memory_s) <= found.kernels_s * (1 + 1e-9)
    assert found.kernels_s <= (found.compute_s + found.memory_s) * (1 + 1e-9)
    assert found.images_per_s <= min(found.device_images_per_s, found.host_images_per_s or 0) * (1 + 1e-9)
    larger = floor(row, ceiling, precision=precision, batch=batch + 1, input=sent)
    assert larger.memory_s < found.memory_s, "weights are read once for more images"


def test_twice_the_batch_halves_the_weights_alone() -> None:
    one, two = (floor(RESNET50, H200, precision="fp16", batch=batch) for batch in (1, 2))
    assert one.weight_bytes == two.weight_bytes == 2 * sum(kernel.weights for kernel in kernels(RESNET50))
    assert one.memory_bytes - two.memory_bytes == one.weight_bytes / 2
    assert one.compute_s == two.compute_s


@pytest.mark.parametrize("wrong", [{"batch": 0}, {"precision": "fp64"}, {"input": "int8"}, {"precision": "fp8"}])
def test_what_cannot_be_meant_is_said(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        floor(RESNET50, known("A100 PCIe 40GB"), **{"precision": "int8", **wrong})


@pytest.mark.parametrize("ceiling", DEVICES, ids=lambda ceiling: ceiling.name)
def test_the_table_is_dense_and_sourced(ceiling: Ceiling) -> None:
    rate = ceiling.flop_s
    assert ceiling.source.startswith(("https://www.nvidia.com/", "https://images.nvidia.com/"))
    # A halved operand doubles the rate in these tensor cores; a sparse figure in one column would show.
    assert rate["int8"] == pytest.approx(2 * rate["fp16"], rel=0.02)
    assert rate.get("fp8", rate["int8"]) == rate["int8"]
    assert rate.get("bf16", rate["fp16"]) in (rate["fp16"], pytest.approx(rate["fp16"] / 2, rel=0.01))
    assert "tf32" not in rate or rate["tf32"] == pytest.approx(rate["bf16"] / 2, rel=0.03)
    assert ceiling.host_bytes_s in (16e9, 32e9, 64e9)
    for name in (ceiling.name, *ceiling.names):
        assert find_ceiling(name) is ceiling, "two rows have one name"


@pytest.mark.parametrize(
    "name", ["NVIDIA H200 NVL", "NVIDIA A10G", "NVIDIA GeForce RTX 4090 Laptop GPU", "NVIDIA H200 MIG 1g.18gb"]
)
def test_a_relative_is_another_device(name: str) -> None:
    assert find_ceiling(name) is None


def test_the_ceilings_of_this_machine_are_what_it_reaches() -> None:
    before = torch.backends.cuda.matmul.allow_tf32
    ceiling = measure_ceiling(copy_bytes=64 * 2**20, matrix=512, duration_s=0.1)
    assert ceiling.source == "measured" and ceiling.host_bytes_s is None
    assert torch.backends.cuda.matmul.allow_tf32 == before
    # Another library, another clock reading: within a factor, the machine being shared.
    square, block = np.ones((512, 512), np.float32), np.zeros(64 * 2**20, np.uint8)
    product_s = min(timed(lambda: square @ square) for _ in range(20))
    copy_s = min(timed(block.copy) for _ in range(5))
    assert 0.1 < ceiling.flop_s["fp32"] / (2 * 512**3 / product_s) < 20
    assert 0.1 < ceiling.memory_bytes_s / (2 * block.nbytes / copy_s) < 20
    found = floor(RESNET50, ceiling)
    assert found.host_s is None and found.host_images_per_s is None and found.image_s == found.kernels_s


def timed(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def test_a_precision_without_a_fast_product_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"fp32": 1.0, "fp16": 3.0, "bf16": 2.9, "int8": float("inf")}
    monkeypatch.setattr(devices, "_product_s", lambda torch, precision, *rest: seconds[precision])
    ceiling = measure_ceiling(copy_bytes=2**20, matrix=10, duration_s=0)
    assert ceiling.flop_s == {"fp32": 2000.0, "bf16": pytest.approx(2000 / 2.9)}


def test_a_slow_precision_is_left_out_although_its_trial_looked_well(monkeypatch: pytest.MonkeyPatch) -> None:
    # The neighbour's turn came while FP32 was tried: 1 s for 10 rows, where FP16 took 1 s as well.
    seconds = {("fp32", 20): 0.1, ("fp16", 20): 0.31, ("bf16", 20): 0.29}
    monkeypatch.setattr(devices, "TRIAL_MATRIX", 10)
    monkeypatch.setattr(devices, "_product_s", lambda torch, precision, device, rows, best: seconds.get((precision, rows), 1.0))
    assert set(measure_ceiling(copy_bytes=2**20, matrix=20, duration_s=0).flop_s) == {"fp32", "bf16"}


def test_a_copy_reads_and_writes_every_byte() -> None:
    class OneSecond:
        """Every piece of work takes a second."""

        def seconds(self, work: Any) -> float:
            work()
            return 1.0

    assert devices._copies(torch, "cpu", 1000, OneSecond()) == (2000.0, None)  # type: ignore[arg-type]


def test_a_product_that_torch_lacks_takes_forever() -> None:
    best = devices._Best(0, lambda: None)
    assert devices._product_s(torch, "int8", "cpu", 16, best) < float("inf")

    class Older:
        """A torch without integer products."""

        int8, ones, backends = torch.int8, torch.ones, torch.backends

    assert devices._product_s(Older, "int8", "cpu", 16, best) == float("inf")


def test_devices_that_are_not_there() -> None:
    with pytest.raises(UsageError, match="tpu"):
        measure_ceiling("tpu")
    if not torch.cuda.is_available():
        with pytest.raises(UnavailableError, match="CUDA"):
            measure_ceiling("cuda")
    with pytest.raises(UsageError, match="above 0"):
        Ceiling(name="broken", flop_s={"fp32": 0.0}, memory_bytes_s=1, host_bytes_s=None, source="measured")


def test_the_ceiling_of_int8_is_that_of_its_fast_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns of the second matrix side by side: the other one takes several times as long."""
    import torch

    strides, known = [], torch._int_mm

    def product(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        strides.append((one.stride(), other.stride()))
        return known(one, other)

    monkeypatch.setattr(torch, "_int_mm", product)
    measure_ceiling(copy_bytes=2**20, matrix=32, duration_s=0)
    assert set(strides) == {((32, 1), (1, 32))}
