"""Networks of the table through the whole of it: exported, checked against eager, verified; small images, one run each.

All of up to 60 layers, and two of the very deep ones: what a deeper one of a family adds is more of the same blocks, whose
shapes tests/models compares for every row. A thousand layers are exported by benchmarks/architectures.py.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from resnet_deploy.models.registry import ARCHITECTURES, Architecture
from resnet_deploy.pipeline.export import export
from resnet_deploy.pipeline.verify import verify

pytestmark = pytest.mark.slow

VERY_DEEP = ["preact_resnet200", "resnet152"]


def layers(row: Architecture) -> int:
    """Convolutions on the longest way through, and the classifier."""
    return sum(row.config.layers) * (3 if row.config.block == "bottleneck" else 2) + 2


# The longest first, so that they are not what everybody waits for at the end.
NAMES = [
    *VERY_DEEP,
    *sorted((name for name, row in ARCHITECTURES.items() if layers(row) <= 60), key=lambda name: -layers(ARCHITECTURES[name])),
]


@pytest.mark.parametrize("name", NAMES)
def test_exported_and_verified(name: str, tmp_path: Path) -> None:
    size = 32 if ARCHITECTURES[name].config.stem == "cifar" else 64
    bundle = export(name, tmp_path / "b", max_batch=2, image_size=size)
    checks = bundle.manifest.artifacts["model.fp32.onnx"].checks
    assert [check.batch for check in checks] == [1, 2]
    (found,) = verify(bundle, "random:4", threads=1)
    assert found.gate == "pass", found.failures
    assert found.report.images == 4 and found.report.cosine_min > 0.9999
