"""A network of every family through TensorRT-RTX's builder, in every precision, with the precision of each layer proven.

One block of each stage, and one more in the first: what repeats is not built again.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import resnet_deploy as rd
from resnet_deploy.models.registry import ARCHITECTURES
from resnet_deploy.pipeline.build import graph_layers

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed: the extra rtx")

FAMILIES: dict[str, str] = {}
for _name, _row in sorted(ARCHITECTURES.items(), key=lambda item: sum(item[1].config.layers)):
    FAMILIES.setdefault(_row.family, f"{_name}:layers={'-'.join(['2', *'1' * (len(_row.config.layers) - 1)])}")
RTX = {"flavour": "tensorrt-rtx"}
NAMES = [*FAMILIES.values(), "ensemble:resnet_cifar:8+resnet_cifar:14"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_precision(name: str, tmp_path: Path) -> None:
    cifar = name.startswith("ensemble") or ARCHITECTURES[name.partition(":")[0]].config.stem == "cifar"
    bundle = rd.export(
        name, tmp_path / "b", max_batch=8, image_size=32 if cifar else 64, precision="fp16,int8,fp8", int8_target="tensorrt",
        calibration="random:8", calibration_method="max",
    )  # fmt: skip
    plans = rd.build(bundle, precision="fp32,fp16,int8", batch=("1", "2:4:8"), compute_capability="sm86", **RTX)
    plans += rd.build(bundle, precision="fp8", batch="1:4:8", compute_capability="sm89", **RTX)
    for plan in plans:
        asked, additions = graph_layers(bundle.path / f"model.{plan.entry.precision.value}.onnx")
        assert not plan.entry.warnings, plan.entry.warnings
        assert plan.report.layers == asked, "each convolution computes in what its graph says"
        assert set(plan.report.unfused_adds) <= set(additions)
