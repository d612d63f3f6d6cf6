"""Every architecture is a row of a table: its shape, its paper, and its published weights."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from resnet_deploy.errors import CheckpointError, UsageError
from resnet_deploy.models.config import ResNetConfig
from resnet_deploy.specs import Preprocessing

RESNET = "1512.03385"
IDENTITY = "1603.05027"
RESNEXT = "1611.05431"
WIDE = "1605.07146"
SQUEEZE = "1709.01507"
TRICKS = "1812.01187"

# Per-channel statistics of CIFAR-10's training set, the usual normalization of the CIFAR networks.
CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2470, 0.2435, 0.2616)


@dataclass(frozen=True, kw_only=True)
class PublishedWeights:
    """Weights on torchvision's server.

    Attributes:
        file: its name ends in the first 8 digits of its SHA-256.
        top1_percent: on ImageNet.
        resize: pixels to which that figure's evaluation resizes the shorter edge.
    """

    file: str
    top1_percent: float
    resize: int


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """One row of the table of architectures.

    Attributes:
        name: letters, digits and underscores.
        family: as `resnet-deploy models` groups it.
        paper: its link.
        config: the shape.
        preprocessing: what images it takes.
        weights: published ones, by name.
        error_percent: top-1, where the paper has one for this very network (CIFAR-10; ImageNet, with the paper's own crops).
        members: of an ensemble; its config is that of the first.
    """

    name: str
    family: str
    paper: str
    config: ResNetConfig
    preprocessing: Preprocessing
    weights: dict[str, PublishedWeights] = field(default_factory=dict)
    error_percent: float | None = None
    members: tuple[Architecture, ...] = ()

    @property
    def image_size(self) -> int:
        return self.preprocessing.crop

    @property
    def num_classes(self) -> int:
        return self.config.num_classes

    def with_classes(self, num_classes: int) -> ResNetConfig:
        """The shape with another number of classes."""
        return replace(self.config, num_classes=num_classes)

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
_DEPTHS: dict[int, tuple[str, tuple[int, ...]]] = {
    18: ("basic", (2, 2, 2, 2)),
    34: ("basic", (3, 4, 6, 3)),
    50: ("bottleneck", (3, 4, 6, 3)),
    101: ("bottleneck", (3, 4, 23, 3)),
    152: ("bottleneck", (3, 8, 36, 3)),
    200: ("bottleneck", (3, 24, 36, 3)),
}


def _imagenet(
    name: str,
    depth: int,
    *,
    family: str = "ResNet",
    paper: str = RESNET,
    weights: dict[str, PublishedWeights] | None = None,
    error: float | None = None,
    **shape: Any,
) -> Architecture:
    block, layers = _DEPTHS[depth]
    return Architecture(
        name=name, family=family, paper=paper, preprocessing=_IMAGENET, weights=weights or {}, error_percent=error,
        config=ResNetConfig(block=block, layers=layers, **shape),
    )  # fmt: skip


def _cifar(
    name: str,
    depth: int,
    *,
    block: str = "basic",
    family: str = "ResNet",
    paper: str = RESNET,
    error: float | None = None,
    **shape: Any,
) -> Architecture:
    """6n+2 layers of basic blocks or 9n+2 of bottlenecks in three stages (1512.03385, section 4.2; 1603.05027)."""
    unit = 6 if block == "basic" else 9
    if depth < unit + 2 or (depth - 2) % unit:
        near = max(1, round((depth - 2) / unit)) * unit + 2
        raise UsageError(f"a CIFAR network of {block} blocks has {unit}n+2 layers; {depth} is not one, {near} is")
    shape = {"widths": (16, 32, 64), "stem": "cifar", "shortcut": "A" if block == "basic" else "B", **shape}
    return Architecture(
        name=name, family=f"{family} (CIFAR)", paper=paper, preprocessing=_CIFAR, error_percent=error,
        config=ResNetConfig(block=block, layers=((depth - 2) // unit,) * 3, num_classes=10, **shape),
    )  # fmt: skip


def _weights(name: str, v1: tuple[str, float, int], v2: tuple[str, float, int] | None = None) -> dict[str, PublishedWeights]:
    return {
        f"IMAGENET1K_V{version}": PublishedWeights(file=f"{name}-{row[0]}.pth", top1_percent=row[1], resize=row[2])
        for version, row in enumerate((v1, v2), start=1)
        if row is not None
    }


# Hashes, accuracies and sizes: torchvision 0.28's weights enums (torchvision.models.resnet).
_ROWS = (
    _imagenet("resnet18", 18, weights=_weights("resnet18", ("f37072fd", 69.758, 256))),
    _imagenet("resnet34", 34, error=24.52, weights=_weights("resnet34", ("b627a593", 73.314, 256))),
    _imagenet(
        "resnet50", 50,
        weights=_weights("resnet50", ("0676ba61", 76.130, 256), ("11ad3fa6", 80.858, 232)),
    ),
    _imagenet(
        "resnet101", 101,
        weights=_weights("resnet101", ("63fe2227", 77.374, 256), ("cd907fc2", 81.886, 232)),
    ),
    _imagenet(
        "resnet152", 152,
        weights=_weights("resnet152", ("394f9c45", 78.312, 256), ("f82ba261", 82.284, 232)),
    ),
    *(
        _cifar(f"resnet{depth}", depth, error=error)
        for depth, error in ((20, 8.75), (32, 7.51), (44, 7.17), (56, 6.97), (110, 6.43), (1202, 7.93))
    ),
    _imagenet(
        "resnext50_32x4d", 50, error=22.2, paper=RESNEXT, family="ResNeXt", groups=32, width_per_group=4,
        weights=_weights("resnext50_32x4d", ("7cdf4587", 77.618, 256), ("1a0047aa", 81.198, 232)),
    ),
    _imagenet(
        "resnext101_32x8d", 101, paper=RESNEXT, family="ResNeXt", groups=32, width_per_group=8,
        weights=_weights("resnext101_32x8d", ("8ba56ff5", 79.312, 256), ("110c445d", 82.834, 232)),
    ),
    _imagenet(
        "resnext101_64x4d", 101, error=20.4, paper=RESNEXT, family="ResNeXt", groups=64, width_per_group=4,
        weights=_weights("resnext101_64x4d", ("173b62eb", 83.246, 232)),
    ),
    *(
        _cifar(
            f"resnext29_{groups}x64d", 29, block="bottleneck", family="ResNeXt", paper=RESNEXT, error=error,
            widths=(64, 128, 256), groups=groups,
        )
        for groups, error in ((8, 3.65), (16, 3.58))
    ),
    _imagenet(
        "wide_resnet50_2", 50, error=21.9, paper=WIDE, family="Wide ResNet", width_per_group=128,
        weights=_weights("wide_resnet50_2", ("95faca4d", 78.468, 256), ("9ba9bcbe", 81.602, 232)),
    ),
    _imagenet(
        "wide_resnet101_2", 101, paper=WIDE, family="Wide ResNet", width_per_group=128,
        weights=_weights("wide_resnet101_2", ("32ee1156", 78.848, 256), ("d733dc28", 82.510, 232)),
    ),
    _imagenet("seresnet50", 50, paper=SQUEEZE, family="SE-ResNet", squeeze=16),
    _imagenet("resnet50d", 50, paper=TRICKS, family="ResNet-D", stem="deep", shortcut="D"),
    _imagenet("plain18", 18, family="plain", shortcut="none", error=27.94),
    _imagenet("plain34", 34, family="plain", shortcut="none", error=28.54),
    *(_cifar(f"plain{depth}", depth, family="plain", shortcut="none") for depth in (20, 32, 44, 56, 110)),
    *(
        _imagenet(f"preact_resnet{depth}", depth, paper=IDENTITY, family="pre-activation", activation="full")
        for depth in (18, 34, 50, 101, 152, 200)
    ),
    _cifar("preact_resnet110", 110, family="pre-activation", paper=IDENTITY, activation="full", error=6.37),
    *(
        _cifar(
            f"preact_resnet{depth}", depth, block="bottleneck", family="pre-activation", paper=IDENTITY, error=error,
            activation="full",
        )
        for depth, error in ((164, 5.46), (1001, 4.92))
    ),
)  # fmt: skip

ARCHITECTURES: dict[str, Architecture] = {row.name: row for row in _ROWS}


def register_architecture(row: Architecture) -> None:
    """Add a row to the table of this process: every function takes its name, with options after a colon.

    Args:
        row: the architecture: its name, its shape, and the images that it takes.

    Raises:
        UsageError: the table has an architecture of this name, or the name has other than letters, digits and underscores.
    """
    if re.fullmatch("[A-Za-z0-9_]{1,60}", row.name) is None:
        raise UsageError(f"an architecture's name has letters, digits and underscores alone; found {row.name!r}")
    if row.name in ARCHITECTURES:
        raise UsageError(f"there is an architecture {row.name!r} already")
    ARCHITECTURES[row.name] = row


def list_models() -> list[str]:
    """Names of every architecture, family by family, as `resnet-deploy models` shows them."""
    return list(ARCHITECTURES)


# Families of any depth: `resnet_cifar:N`, `plain_cifar:N`, `preact_resnet_cifar:N`.
_DEPTH_FAMILIES: dict[str, dict[str, Any]] = {
    "resnet_cifar": {},
    "plain_cifar": {"family": "plain", "shortcut": "none"},
    "preact_resnet_cifar": {"family": "pre-activation", "paper": IDENTITY, "activation": "full"},
}
_ENSEMBLE = "ensemble:"
_MAX_MEMBERS = 100  # of an ensemble
_DILATION = {"replace_stride_with_dilation", "output_stride"}


def architecture(name: str, **shape: Any) -> Architecture:
    """The row of a name, with the options that follow a colon in place of its own.

    `resnet34:shortcut=A`, `resnet50:stride_on=1x1,output_stride=16`; `resnet:...` is a ResNet-50 to be changed at will, and
    `resnet_cifar:N`, `plain_cifar:N`, `preact_resnet_cifar:N` have N layers; `ensemble:NAME+NAME+...` averages the
    probabilities of its members. shape: more such options by keyword, as in layers=(3, 4, 6, 3). Raises UsageError, with the
    nearest names for an unknown one.
    """
    if name.startswith(_ENSEMBLE):
        return _ensemble(name, shape)
    if shape:
        name = f"{name}{',' if ':' in name else ':'}{','.join(f'{key}={_text(value)}' for key, value in shape.items())}"
    base, _, rest = name.partition(":")
    parts = [part for part in rest.split(",") if part]
    if base in _DEPTH_FAMILIES and parts and parts[0].isdecimal():
        options = _options(parts[1:])
        row = _cifar(name, _depth(parts[0]), block=options.pop("block", "basic"), **_DEPTH_FAMILIES[base])
    elif base in ARCHITECTURES or base == "resnet":
        options = _options(parts)
        row = ARCHITECTURES.get(base) or replace(ARCHITECTURES["resnet50"], name=name)
    else:
        near = nearest(base, ARCHITECTURES)
        hint = f"did you mean {' or '.join(near)}?" if near else "`resnet-deploy models` lists them"
        raise UsageError(f"unknown model {name[:100]!r}; {hint}")
    if not options:
        return row
    # Published weights are those of the row's own shape; dilation leaves that alone.
    weights = row.weights if set(options) <= _DILATION else {}
    return replace(row, name=name, config=row.config.changed(options), weights=weights, error_percent=None)


def _ensemble(name: str, shape: dict[str, Any]) -> Architecture:
    names = [part for part in name.removeprefix(_ENSEMBLE).split("+") if part]
    if len(names) > _MAX_MEMBERS:
        raise UsageError(f"an ensemble has at most {_MAX_MEMBERS} members; found {len(names)}")
    if len(names) < 2:
        raise UsageError(f"{name!r} needs two members or more, as in ensemble:resnet18+resnet34")
    if shape or any(part.startswith(_ENSEMBLE) for part in names):
        raise UsageError(f"give an ensemble's members their own options, as in {_ENSEMBLE}resnet34:shortcut=A+resnet50")
    members = tuple(map(architecture, names))
    first = members[0]
    for member in members:
        if (member.preprocessing, member.num_classes) != (first.preprocessing, first.num_classes):
            raise UsageError(
                f"{member.name} and {first.name} cannot be one ensemble: their images or classes differ "
                f"({member.image_size} and {first.image_size} pixels, {member.num_classes} and {first.num_classes} classes)"
            )
    return Architecture(
        name=name, family="ensemble", paper=RESNET, config=first.config, preprocessing=first.preprocessing, members=members
    )


def _text(value: Any) -> str:
    """A value as an option has it; True and False are those of replace_stride_with_dilation."""
    if isinstance(value, (tuple, list)):
        return "-".join(str(int(part)) if isinstance(part, bool) else str(part) for part in value)
    return str(value)


def _depth(text: str) -> int:
    """Layers of a network by name; `_cifar` and the configuration say which there are."""
    if not text.isascii() or len(text) > 9:
        raise UsageError(f"{text[:40]} is not a number of layers, as in resnet_cifar:56")
    return int(text)


def _options(parts: list[str]) -> dict[str, str]:
    """Options by name. Raises UsageError for what is not one, and for one that is there twice."""
    options: dict[str, str] = {}
    for name, value in map(_option, parts):
        if name in options:
            raise UsageError(f"the option {name} is there twice: {options[name]} and {value}")
        options[name] = value
    return options


def _option(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not value:
        raise UsageError(f"{text[:100]!r} is not an option of a model, as in shortcut=A")
    return name, value


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """Up to three known names that resemble this one, best first."""
    wanted = name.lower().replace("-", "").replace("_", "")
    return difflib.get_close_matches(wanted, list(known), n=3, cutoff=0.6)
