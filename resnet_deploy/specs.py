"""What everything speaks: precisions, heads, tensors, preprocessing. Plain frozen data, validated once."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace
from enum import Enum
from typing import Any, TypeVar

from resnet_deploy import limits
from resnet_deploy.errors import UsageError
from resnet_deploy.limits import MAX_SIDE
from resnet_deploy.precisions import Precision as Precision

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
INPUT_NAME = "input"
# (what is being done, steps done, steps in all or None)
Progress = Callable[[str, int, "int | None"], None]
MAX_BATCH = 32  # the largest batch at which an export is checked, unless asked for more
MEAN_RANGE = (-10.0, 10.0)  # of RGB in [0, 1]; 124, of RGB in [0, 255], is a mistake
STD_RANGE = (1e-4, 100.0)  # 1/255 is in use, for networks that take 0 to 255
OPSET = 20  # of ONNX; TensorRT >= 10 and ONNX Runtime >= 1.17 read it


def silent(what: str, done: int, total: int | None) -> None:
    """Progress that nobody watches."""


_Group = TypeVar("_Group", bound="OptionGroup")


class OptionGroup:
    """A frozen dataclass of options. A function's arguments are one that derives from several of these (`_arguments.takes`)."""

    explicit: frozenset[str] = frozenset()  # options that a caller gave, also where their values are the defaults

    def __post_init__(self) -> None:
        """Check the values. Each group checks its own, and calls the next."""

    @classmethod
    def names(cls) -> frozenset[str]:
        """The options that there are."""
        return frozenset(field.name for field in fields(cls) if field.init)  # type: ignore[arg-type]

    @classmethod
    def of(cls: type[_Group], **options: Any) -> _Group:
        """Make it of the options that were given, and remember which these are."""
        group = cls(**options)
        object.__setattr__(group, "explicit", group.explicit | options.keys())
        return group

    def part(self, kind: type[_Group]) -> _Group:
        """The options of one of the groups that this derives from."""
        group = kind(**{name: getattr(self, name) for name in kind.names()})
        object.__setattr__(group, "explicit", self.explicit & kind.names())
        return group

    def but(self: _Group, **options: Any) -> _Group:
        """The same with other values for some options."""
        group = replace(self, **options)  # type: ignore[type-var]
        object.__setattr__(group, "explicit", self.explicit | options.keys())
        return group

    def explicit_of(self, *kinds: type[OptionGroup]) -> dict[str, Any]:
        """What a caller gave of the options of some groups, by name."""
        names = frozenset[str]().union(*(kind.names() for kind in kinds))
        return {name: getattr(self, name) for name in sorted(self.explicit & names)}


class InputFormat(str, Enum):
    """What a client sends: normalized NCHW float32, or NHWC uint8 pixels that the graph normalizes."""

    FLOAT = "float"
    UINT8 = "uint8"


class HeadKind(str, Enum):
    """What the deployed model answers with."""

    LOGITS = "logits"
    PROBABILITIES = "probabilities"
    EMBEDDING = "embedding"
    FEATURES = "features"
    TOPK = "topk"


@dataclass(frozen=True, kw_only=True)
class Head:
    """The output stage of a deployed model.

    kind: what comes out. k: how many classes, for topk alone. l2_normalize: unit-length embeddings.
    """

    kind: HeadKind = HeadKind.LOGITS
    k: int | None = None
    l2_normalize: bool = False

    def __post_init__(self) -> None:
        if (self.kind is HeadKind.TOPK) != (self.k is not None):
            raise UsageError("the head topk needs the number of classes, as in topk:5; the other heads take none")
        if self.k is not None and self.k < 1:
            raise UsageError(f"topk:{self.k} asks for no class; use topk:1 or more")
        if self.l2_normalize and self.kind is not HeadKind.EMBEDDING:
            raise UsageError(f"L2 normalization is for the embedding head, not for {self.kind.value}")

    @classmethod
    def parse(cls, text: str, *, l2_normalize: bool = False) -> Head:
        """Read `logits`, `probabilities`, `embedding`, `features` or `topk:K`. Raises UsageError."""
        name, _, argument = text.partition(":")
        try:
            kind = HeadKind(name)
        except ValueError:
            raise UsageError(
                f"unknown head {text!r}; choose one of: logits, probabilities, embedding, features, topk:K"
            ) from None
        if argument and re.fullmatch("[0-9]{1,9}", argument) is None:
            raise UsageError(f"{text!r}: {argument!r} is not a number of classes, as in topk:5")
        return cls(kind=kind, k=int(argument) if argument else None, l2_normalize=l2_normalize)

    def output_names(self, stages: int) -> tuple[str, ...]:
        """The tensor names of this head on a network of so many stages; stage i is C(i+1), as in FPN (1612.03144)."""
        if self.kind is HeadKind.FEATURES:
            return tuple(f"features_c{stage + 2}" for stage in range(stages))
        if self.kind is HeadKind.TOPK:
            return ("topk_values", "topk_indices")
        return (self.kind.value,)

    def __str__(self) -> str:
        return f"topk:{self.k}" if self.k is not None else self.kind.value


@dataclass(frozen=True, kw_only=True)
class TensorSpec:
    """Name, numpy dtype name and shape of one input or output; a string in the shape is a dynamic dimension."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> TensorSpec:
        return cls(name=data["name"], dtype=data["dtype"], shape=tuple(data["shape"]))

    def of_batch(self, batch: int) -> tuple[int, ...]:
        """The shape at a batch size; everything behind the batch must be of a fixed size."""
        return (batch, *(int(size) for size in self.shape[1:]))

    def __str__(self) -> str:
        return f"{self.name} {self.dtype} [{', '.join(map(str, self.shape))}]"


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Evaluation transform: resize the shorter edge, crop the centre, scale to [0, 1], normalize each channel.

    resize, crop: pixels, 1 to 8,192. mean, std: of RGB in [0, 1]; -10 to 10, and 0.0001 to 100. The steps are those of
    torchvision's ImageClassification preset. Raises UsageError for anything else.
    """

    resize: int
    crop: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        for name, side in (("resize", self.resize), ("crop", self.crop)):
            if not _is_number(side, numbers.Integral) or not 1 <= side <= MAX_SIDE:
                raise UsageError(f"{name} is {side!r}; it must be a whole number of pixels from 1 to {MAX_SIDE:,}")
        for name, values, (low, high) in (("mean", self.mean, MEAN_RANGE), ("std", self.std, STD_RANGE)):
            known = isinstance(values, (tuple, list)) and all(_is_number(value, numbers.Real) for value in values)
            if not known or len(values) != 3 or not all(low <= value <= high for value in values):  # NaN is in no range
                raise UsageError(
                    f"{name} is {values}; it must be three numbers, of red, green and blue in [0, 1], from {low:g} to {high:g}"
                )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Preprocessing:
        """Read what `to_dict` wrote. Raises KeyError, TypeError or ValueError for another form, UsageError for a range."""
        return cls(
            resize=_whole(data["resize"]),
            crop=_whole(data["crop"]),
            mean=tuple(_real(value) for value in data["mean"]),  # type: ignore[arg-type]
            std=tuple(_real(value) for value in data["std"]),  # type: ignore[arg-type]
        )


def _is_number(value: Any, kind: type) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)


def _real(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:
        return math.inf


def _whole(value: Any) -> int:
    if isinstance(value, float) and not (math.isfinite(value) and value.is_integer()):  # int() would truncate, or overflow
        raise ValueError(f"{value} is not a whole number")
    return int(value)


CALIBRATION_METHODS = ("max", "percentile:99.9", "percentile:99.99", "percentile:99.999", "entropy", "mse")


def check_calibration_method(method: str) -> None:
    """Raises UsageError for what is not max, entropy, mse or percentile:P with P above 0 and at most 100."""
    name, _, text = method.partition(":")
    if method in {"max", "entropy", "mse"}:
        return
    if name != "percentile" or re.fullmatch(r"[0-9]{1,3}(\.[0-9]{1,12})?", text) is None or not 0 < float(text) <= 100:
        raise UsageError(
            f"unknown calibration method {method!r}; choose from {', '.join(CALIBRATION_METHODS)}, auto (a percentile is above "
            "0 and at most 100)"
        )


def to_dict(spec: Any) -> dict[str, Any]:
    """A spec as JSON has it: enums as their values, tuples as lists."""
    return {name: _plain(value) for name, value in asdict(spec).items()}


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


def listed(texts: str | Iterable[str]) -> list[str]:
    """One text, or several, as a list."""
    return [texts] if isinstance(texts, str) else [*texts]


def parse_batches(values: str | int | Iterable[int]) -> tuple[int, ...]:
    """Read batch sizes: `1,8,32`, one number, or a sequence. Raises UsageError for anything below 1."""
    try:
        if isinstance(values, str):
            batches = [limits.parse_option("batch", part, label="a batch size") for part in values.split(",")]
        else:
            batches = [values] if isinstance(values, numbers.Number) else [*values]  # type: ignore[list-item, misc]
            limits.check_option("batch", batches, label="a batch size")
    except TypeError:
        batches = []
    if not batches:
        raise UsageError(f"batch sizes are whole numbers separated by commas, as in 1,8,32; found {values!r}")
    return tuple(dict.fromkeys(int(size) for size in batches))
