"""What there is, as rows: every architecture with what it costs and what is published of it."""

from __future__ import annotations

from typing import Any

from resnet_deploy.models.complexity import complexity
from resnet_deploy.models.registry import ARCHITECTURES, Architecture


def catalogue() -> list[dict[str, Any]]:
    """One row an architecture, family by family: name, family, paper (arXiv), parameters, weight_bytes (FP32), macs and
    activations (elements) of one image, image_size, num_classes, error_percent (the paper's top-1 error), weights."""
    return [_described(row) for row in ARCHITECTURES.values()]


def _described(row: Architecture) -> dict[str, Any]:
    cost = complexity(row)
    return {
        "name": row.name, "family": row.family, "paper": row.paper, "parameters": cost.parameters,
        "weight_bytes": cost.parameters * 4, "macs": cost.macs, "activations": cost.activations,
        "image_size": row.image_size, "num_classes": row.num_classes, "error_percent": row.error_percent,
        "weights": [{"name": name, "top1_percent": w.top1_percent} for name, w in row.weights.items()],
    }  # fmt: skip
