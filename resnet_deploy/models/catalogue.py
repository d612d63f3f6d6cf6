"""What there is, as rows: every architecture with what it costs and what is published of it."""

from __future__ import annotations

from typing import Any

from resnet_deploy.models.complexity import complexity
from resnet_deploy.models.registry import ARCHITECTURES


def catalogue() -> list[dict[str, Any]]:
    """One row an architecture: name, family, paper (arXiv), parameters, macs, image_size, num_classes,
    error_percent (the paper's top-1 error), weights."""
    rows = []
    for row in ARCHITECTURES.values():
        cost = complexity(row)
        rows.append(
            {
                "name": row.name, "family": row.family, "paper": row.paper, "parameters": cost.parameters,
                "macs": cost.macs, "image_size": row.image_size, "num_classes": row.num_classes,
                "error_percent": row.error_percent,
                "weights": [{"name": name, "top1_percent": w.top1_percent} for name, w in row.weights.items()],
            }
        )  # fmt: skip
    return rows
