"""What there is, as rows: every architecture with what it costs and what is published of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from resnet_deploy.models.complexity import complexity
from resnet_deploy.models.registry import ARCHITECTURES, Architecture


@dataclass(frozen=True, kw_only=True)
class ArchitectureSummary:
    """An architecture, what it costs, and what is published of it.

    Attributes:
        name, family: as `list_models` has them.
        paper: its arXiv number; None where there is none.
        parameters: how many.
        weight_bytes: of the weights in FP32.
        macs: multiply-accumulate operations of one image.
        activations: elements that the layers write for one image.
        image_size: pixels of an edge.
        num_classes: of the published classifier.
        error_percent: top-1 error in the paper; None where it has none.
        weights: published weights by name, with their top-1 accuracy in percent.
    """

    name: str
    family: str
    paper: str | None
    parameters: int
    weight_bytes: int
    macs: int
    activations: int
    image_size: int
    num_classes: int
    error_percent: float | None
    weights: dict[str, float | None]

    def to_dict(self) -> dict[str, Any]:
        """As `resnet-deploy models --json` has it."""
        weights = [{"name": name, "top1_percent": percent} for name, percent in self.weights.items()]
        return {**asdict(self), "weights": weights}


def describe_models() -> list[ArchitectureSummary]:
    """Every architecture, family by family: what `resnet-deploy models` shows."""
    return [_summary(row) for row in ARCHITECTURES.values()]


def _summary(row: Architecture) -> ArchitectureSummary:
    cost = complexity(row)
    return ArchitectureSummary(
        name=row.name, family=row.family, paper=row.paper, parameters=cost.parameters, weight_bytes=cost.parameters * 4,
        macs=cost.macs, activations=cost.activations, image_size=row.image_size, num_classes=row.num_classes,
        error_percent=row.error_percent, weights={name: weights.top1_percent for name, weights in row.weights.items()},
    )  # fmt: skip
