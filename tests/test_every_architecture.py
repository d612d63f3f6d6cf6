"""Networks of the table through the whole of it: exported, checked against eager, verified; small images, one run each.

The shallowest of every kind of block, stem, shortcut and stage, and two of the very deep ones: what a deeper one of a family
adds is more of the same blocks, whose shapes tests/models compares for every row, and benchmarks/architectures.py exports all.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from resnet_deploy.models.registry import ARCHITECTURES, Architecture, architecture
from resnet_deploy.pipeline.export import export
from resnet_deploy.pipeline.verify import verify

pytestmark = pytest.mark.slow

VERY_DEEP = ["resnet152", "preact_resnet164"]


def kind(row: Architecture) -> tuple[object, ...]:
    """All of a configuration but how many, and how wide, its layers are."""
    config = row.config
    several = config.groups > 1, config.squeeze > 0, len(config.layers)
    return (
        row.family, config.block, config.stem, config.shortcut, config.stride_on, config.activation, *several,
        config.replace_stride_with_dilation,
    )  # fmt: skip


KINDS: dict[object, str] = {}
for _name, _row in sorted(ARCHITECTURES.items(), key=lambda item: sum(item[1].config.layers)):
    _stages = _row.config.layers
    KINDS.setdefault(kind(_row), _name if sum(_stages) <= 9 else f"{_name}:layers={'-'.join('2' * len(_stages))}")
NAMES = [*VERY_DEEP, *reversed(KINDS.values())]  # the deepest first: nobody waits for them at the end


@pytest.mark.parametrize("name", NAMES)
def test_exported_and_verified(name: str, tmp_path: Path) -> None:
    size = 32 if architecture(name).config.stem == "cifar" else 64
    bundle = export(name, tmp_path / "b", max_batch=2, image_size=size)
    checks = bundle.manifest.artifacts["model.fp32.onnx"].checks
    assert [check.batch for check in checks] == [1, 2]
    (found,) = verify(bundle, "random:4", threads=1)
    assert found.gate == "pass", found.failures
    assert found.report.images == 4 and found.report.cosine_min > 0.9999
