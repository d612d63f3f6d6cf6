"""Ranges of activations, and the readable file that keeps them: typed, checked against itself and against a graph."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec

from resnet_deploy import _json
from resnet_deploy._files import regular, write_atomic
from resnet_deploy._text import printable
from resnet_deploy.errors import CalibrationError, UsageError
from resnet_deploy.graph.graph import Graph
from resnet_deploy.specs import check_calibration_method

FP16_LARGEST = 65504.0
VERSION = 1
MAX_BYTES = 1 << 28  # of a calibration file: a million images take 20 MB, a thousand layers 10
_MEAN_DIGITS = 1e-4  # means have 5 digits, ranges 7
_FLOAT32_LARGEST = 3.4028235e38

_LEAST = 1e-30  # of a magnitude that saturates: a 255th of it is still a normal float32

_Number = Annotated[float, msgspec.Meta(ge=-_FLOAT32_LARGEST, le=_FLOAT32_LARGEST)]
_Threshold = Annotated[float, msgspec.Meta(ge=0, le=_FLOAT32_LARGEST)]
_Name = Annotated[str, msgspec.Meta(min_length=1)]
_Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$(?!\\n)")]
_ImageDigest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{16}$(?!\\n)")]


@dataclass(frozen=True, kw_only=True)
class Range:
    """The range of one tensor. All zero for a tensor that was always zero.

    Attributes:
        low, high: exact extremes.
        int8: the magnitude at which 127 levels a side saturate.
        uint8: the magnitude at which 255 levels saturate; 127 where there are negative values.
    """

    low: _Number
    high: _Number
    int8: _Threshold
    uint8: _Threshold

    @property
    def largest(self) -> float:
        """The largest magnitude."""
        return max(abs(self.low), abs(self.high))

    def problem(self) -> str | None:
        """What contradicts itself, or None."""
        if self.low > self.high:
            return f"low {self.low:g} is above high {self.high:g}"
        for name in ("int8", "uint8"):
            threshold = getattr(self, name)
            if threshold > self.largest:
                return f"{name} {threshold:g} is above the largest magnitude, {self.largest:g}"
            if 0 < threshold < _LEAST:
                return f"{name} {threshold:g} is too small: a level of it is 0 in float32"
            if threshold == 0 < self.largest:
                return f"{name} is 0, which only a tensor that was always zero has; its largest magnitude is {self.largest:g}"
        return None


@dataclass(frozen=True, kw_only=True)
class _File:
    """calibration.json, version 1."""

    version: int
    method: str
    graph: _Sha256
    data: str
    warnings: tuple[str, ...]
    tensors: Annotated[dict[_Name, Range], msgspec.Meta(min_length=1)]
    means: dict[_Name, Annotated[list[_Number], msgspec.Meta(min_length=1)]]
    images: Annotated[tuple[_ImageDigest, ...], msgspec.Meta(min_length=1)]


@dataclass(frozen=True, kw_only=True)
class _Version:
    version: int


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Ranges of a graph's tensors, and what they were measured on.

    Attributes:
        method: max, percentile:P, entropy or mse.
        graph: the FP32 graph's hash.
        ranges: by tensor.
        data: what the user called the images.
        images: digests of those that were seen, so that nothing is judged on them.
        warnings: what makes the ranges unsafe.
        means: of each channel of what convolutions read, by tensor, for bias correction.
    """

    method: str
    graph: str
    ranges: dict[str, Range]
    data: str = ""
    images: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    means: dict[str, list[float]] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """16 hexadecimal digits over all that a quantized graph depends on and all that it must not be judged on: the method,
        the graph, every range and mean, the images and their name. Another number, another key."""
        parts = {
            "method": self.method, "graph": self.graph, "data": self.data, "images": list(self.images),
            "ranges": {name: [item.low, item.high, item.int8, item.uint8] for name, item in self.ranges.items()},
            "means": self.means,
        }  # fmt: skip
        return hashlib.sha256(json.dumps(parts, sort_keys=True, allow_nan=False).encode()).hexdigest()[:16]

    def save(self, path: Path) -> None:
        """Readable JSON, a line a tensor; equal calibrations give equal bytes. Raises StorageError on a full disk."""
        head = {"version": VERSION, "method": self.method, "graph": self.graph, "data": self.data, "warnings": self.warnings}
        lines = [f"  {json.dumps(name)}: {_text(vars(item))}" for name, item in self.ranges.items()]
        text = json.dumps(head, indent=1)[:-2] + ',\n "tensors": {\n' + ",\n".join(lines) + "\n },\n"
        means = [f"  {json.dumps(name)}: {_text(values)}" for name, values in self.means.items()]
        text += ' "means": {' + ("\n" + ",\n".join(means) + "\n " if means else "") + "},\n"
        write_atomic(path, (text + f' "images": {json.dumps(list(self.images))}\n}}\n').encode())

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """Read what `save` wrote, or what a user made of it.

        Raises:
            CalibrationError: not a file, not JSON, a field that is missing, of another type or out of its range, ranges
                and means that contradict each other; the message names the field and says what to do.
        """
        try:
            regular(path, MAX_BYTES)
            data = path.read_bytes()
            if (version := _json.decode(data, _Version).version) != VERSION:
                raise CalibrationError(f"{path} has version {version}; this resnet-deploy reads {VERSION}. Give images instead")
            content = _json.decode(data, _File)
            _check(content)
        except (OSError, ValueError) as exc:
            reason = exc.strerror if isinstance(exc, OSError) else exc
            raise CalibrationError(
                f"{path} is not a calibration file that can be used: {reason}. Calibrate again with images, or give a "
                "calibration.json as it was written"
            ) from exc
        return cls(
            method=content.method, graph=content.graph, ranges=content.tensors, data=content.data, images=content.images,
            warnings=content.warnings, means=content.means,
        )  # fmt: skip

    def require(self, graph: Graph, names: Iterable[str]) -> None:
        """Check that a graph can be quantized by these ranges.

        Args:
            graph: the FP32 graph.
            names: tensors whose ranges are needed.

        Raises:
            CalibrationError: the ranges are of another graph, lack a tensor, name one that the graph has not, or have
                means of another number of channels.
        """
        missing = [name for name in names if name not in self.ranges]
        tensors = {graph.input.name, *graph.made_by}
        unknown = [name for name in (*self.ranges, *self.means) if name not in tensors]
        what = None
        if missing:
            what = f"it has no range for {_several(missing)}"
        elif unknown:
            what = f"it names {_several(unknown)}, which the graph does not have"
        elif self.graph != digest_of(graph):
            what = "the weights or layers differ"
        else:
            what = self._wrong_means(graph)
        if what is not None:
            raise CalibrationError(f"the calibration ({self.data or self.method}) is of another model: {what}. Calibrate again")

    def _wrong_means(self, graph: Graph) -> str | None:
        for node in graph.weighted():
            if node.op_type == "Conv" and (means := self.means.get(node.input[0])) is not None:
                group = next((item.i for item in node.attribute if item.name == "group"), 1)
                channels = graph.constants[node.input[1]].dims[1] * group
                if len(means) != channels:
                    return f"{node.input[0]!r} has {channels} channels, and means of {len(means)}"
        return None

    def overflows(self) -> dict[str, float]:
        """Tensors with values that FP16 cannot hold."""
        return {name: item.largest for name, item in self.ranges.items() if item.largest > FP16_LARGEST}


def digest_of(graph: Graph) -> str:
    """Of the graph's nodes and constants, whatever the file's own metadata: SHA-256, hexadecimal."""
    return hashlib.sha256(graph.model.graph.SerializeToString(deterministic=True)).hexdigest()


def _check(content: _File) -> None:
    """Raises ValueError where fields contradict each other."""
    for name, item in content.tensors.items():
        if what := item.problem():
            raise ValueError(f"tensors.{printable(name)}: {what}")
    for name, means in content.means.items():
        limits = content.tensors.get(name)
        if limits is None:
            raise ValueError(f"means.{printable(name)}: there is no range of that tensor")
        slack = limits.largest * _MEAN_DIGITS
        if outside := next((mean for mean in means if not limits.low - slack <= mean <= limits.high + slack), None):
            raise ValueError(f"means.{printable(name)}: {outside:g} is outside the range, {limits.low:g} to {limits.high:g}")
    try:
        check_calibration_method(content.method)
    except UsageError as exc:
        raise ValueError(f"method: {exc}") from exc
    for field_name, texts in (("data", (content.data,)), ("warnings", content.warnings)):
        if any(not text.isprintable() for text in texts):
            raise ValueError(f"{field_name}: it has control characters")


def _several(names: list[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(repr(name) for name in names[:3]) + more


def _text(value: Any) -> str:
    return json.dumps(value, allow_nan=False)
