"""Every architecture is a row of a table: its shape, its paper, and its published weights."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from resnet_deploy.errors import CheckpointError, UsageError
from resnet_deploy.specs import Preprocessing

RESNET = "1512.03385"
RESNEXT = "1611.05431"
WIDE = "1605.07146"

# Per-channel statistics of CIFAR-10's training set, the usual normalization of the CIFAR networks.
CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2470, 0.2435, 0.2616)


@dataclass(frozen=True, kw_only=True)
class PublishedWeights:
    """Weights on torchvision's server: file name (it ends in the first 8 digits of its SHA-256), ImageNet top-1 in
    percent, and the size to which that figure's evaluation resizes the shorter edge (pixels)."""

    file: str
    top1_percent: float
    resize: int


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One row. The remaining fields are those of `models.resnet.ResNetConfig`."""

    name: str
    family: str
    paper: str
    block: str
    layers: tuple[int, ...]
    preprocessing: Preprocessing
    widths: tuple[int, ...] = (64, 128, 256, 512)
    stem: str = "imagenet"
    shortcut: str = "B"
    groups: int = 1
    width_per_group: int = 64
    num_classes: int = 1000
    weights: dict[str, PublishedWeights] = field(default_factory=dict)

    @property
    def image_size(self) -> int:
        return self.preprocessing.crop

    def published(self, name: str) -> tuple[str, PublishedWeights]:
        """Published weights by name, DEFAULT being the newest. Raises CheckpointError."""
        if not self.weights:
            raise CheckpointError(f"{self.name} has no published weights; give a checkpoint file")
        chosen = list(self.weights)[-1] if name == "DEFAULT" else name
        if chosen not in self.weights:
            raise CheckpointError(f"{self.name} has no weights {name}; it has {', '.join(self.weights)}, DEFAULT")
        return chosen, self.weights[chosen]


_IMAGENET = Preprocessing(resize=256, crop=224)
_CIFAR = Preprocessing(resize=32, crop=32, mean=CIFAR_MEAN, std=CIFAR_STD)


def _imagenet(name: str, block: str, layers: tuple[int, ...], paper: str = RESNET, **changes: object) -> Architecture:
    row = Architecture(name=name, family="ResNet", paper=paper, block=block, layers=layers, preprocessing=_IMAGENET)
    return replace(row, **changes)  # type: ignore[arg-type]


def _cifar(depth: int) -> Architecture:
    """6n+2 layers: three stages of n basic blocks (1512.03385, section 4.2)."""
    return Architecture(
        name=f"resnet{depth}",
        family="ResNet (CIFAR)",
        paper=RESNET,
        block="basic",
        layers=((depth - 2) // 6,) * 3,
        preprocessing=_CIFAR,
        widths=(16, 32, 64),
        stem="cifar",
        shortcut="A",
        num_classes=10,
    )


def _weights(name: str, v1: tuple[str, float, int], v2: tuple[str, float, int] | None = None) -> dict[str, PublishedWeights]:
    return {
        f"IMAGENET1K_V{version}": PublishedWeights(file=f"{name}-{row[0]}.pth", top1_percent=row[1], resize=row[2])
        for version, row in enumerate((v1, v2), start=1)
        if row is not None
    }


# Hashes, accuracies and sizes: torchvision 0.28's weights enums (torchvision.models.resnet).
_ROWS = (
    _imagenet("resnet18", "basic", (2, 2, 2, 2), weights=_weights("resnet18", ("f37072fd", 69.758, 256))),
    _imagenet("resnet34", "basic", (3, 4, 6, 3), weights=_weights("resnet34", ("b627a593", 73.314, 256))),
    _imagenet(
        "resnet50", "bottleneck", (3, 4, 6, 3),
        weights=_weights("resnet50", ("0676ba61", 76.130, 256), ("11ad3fa6", 80.858, 232)),
    ),
    _imagenet(
        "resnet101", "bottleneck", (3, 4, 23, 3),
        weights=_weights("resnet101", ("63fe2227", 77.374, 256), ("cd907fc2", 81.886, 232)),
    ),
    _imagenet(
        "resnet152", "bottleneck", (3, 8, 36, 3),
        weights=_weights("resnet152", ("394f9c45", 78.312, 256), ("f82ba261", 82.284, 232)),
    ),
    _imagenet(
        "resnext50_32x4d", "bottleneck", (3, 4, 6, 3), RESNEXT, family="ResNeXt", groups=32, width_per_group=4,
        weights=_weights("resnext50_32x4d", ("7cdf4587", 77.618, 256), ("1a0047aa", 81.198, 232)),
    ),
    _imagenet(
        "resnext101_32x8d", "bottleneck", (3, 4, 23, 3), RESNEXT, family="ResNeXt", groups=32, width_per_group=8,
        weights=_weights("resnext101_32x8d", ("8ba56ff5", 79.312, 256), ("110c445d", 82.834, 232)),
    ),
    _imagenet(
        "resnext101_64x4d", "bottleneck", (3, 4, 23, 3), RESNEXT, family="ResNeXt", groups=64, width_per_group=4,
        weights=_weights("resnext101_64x4d", ("173b62eb", 83.246, 232)),
    ),
    _imagenet(
        "wide_resnet50_2", "bottleneck", (3, 4, 6, 3), WIDE, family="Wide ResNet", width_per_group=128,
        weights=_weights("wide_resnet50_2", ("95faca4d", 78.468, 256), ("9ba9bcbe", 81.602, 232)),
    ),
    _imagenet(
        "wide_resnet101_2", "bottleneck", (3, 4, 23, 3), WIDE, family="Wide ResNet", width_per_group=128,
        weights=_weights("wide_resnet101_2", ("32ee1156", 78.848, 256), ("d733dc28", 82.510, 232)),
    ),
    *(_cifar(depth) for depth in (20, 32, 44, 56, 110)),
)  # fmt: skip

ARCHITECTURES: dict[str, Architecture] = {row.name: row for row in _ROWS}


def list_models() -> list[str]:
    """Names of every architecture, family by family, as `resnet-deploy models` shows them."""
    return list(ARCHITECTURES)


def architecture(name: str) -> Architecture:
    """The row of a name. Raises UsageError with the nearest names."""
    if name in ARCHITECTURES:
        return ARCHITECTURES[name]
    near = nearest(name, ARCHITECTURES)
    hint = f"did you mean {' or '.join(near)}?" if near else "`resnet-deploy models` lists them"
    raise UsageError(f"unknown model {name!r}; {hint}")


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Up to three known names that resemble this one, best first."""
    wanted = name.lower().replace("-", "").replace("_", "")
    return difflib.get_close_matches(wanted, list(known), n=3, cutoff=0.6)
