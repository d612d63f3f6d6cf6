"""The table of precisions, a row each, and `Precision`, the checked name of one."""

from __future__ import annotations

import importlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from resnet_deploy.errors import UsageError

_NAME = re.compile("[a-z0-9]+(-[a-z0-9]+)*")


@dataclass(frozen=True, kw_only=True)
class PrecisionRow:
    """What the convolutions of a network compute in, and all that follows from it.

    Attributes:
        name: as `--precision` and files' names have it: lower-case letters, digits, dashes.
        element: numpy's or ml_dtypes' name of the type that convolutions' weights are stored in.
        value_bytes: of one weight or activation in memory, for the roofline.
        quantized: whether activations are integers (or FP8) too, by ranges from calibration images.
        gates: limits by metric that `verify` and `bench` judge by where the user gives none.
        lowering: `module:function` that makes the graph from the FP32 graph, called as
            `function(graph, precision, native_io=False, keep=("layer1",))` and returning the new graph; None where that is
            the exporter's (FP32) or the quantizer's (`quantized`) work.
        targets: placements of Q/DQ pairs that there are, each a file: tensorrt (also OpenVINO's), cpu (ONNX Runtime's).
            None for FP32, which is where the others are made from.
        compute_capability: the first of CUDA with such convolutions, 75 for 7.5.
        mark: the number of its shape in charts; None where it shares one with others.
    """

    name: str
    element: str
    value_bytes: int
    gates: Mapping[str, float]
    quantized: bool = False
    lowering: str | None = None
    targets: tuple[str, ...] = ("tensorrt",)
    compute_capability: int = 75
    mark: int | None = None

    def lower(self, graph: Any, precision: Precision, **options: Any) -> Any:
        """The graph in this precision, by `lowering`. Raises UsageError where there is none."""
        if self.lowering is None:
            raise UsageError(f"{self.name} is made from calibration images; give them with --calibration")
        module, _, name = self.lowering.partition(":")
        return getattr(importlib.import_module(module), name)(graph, precision, **options)

    def __post_init__(self) -> None:
        if _NAME.fullmatch(self.name) is None:
            raise UsageError(f"a precision's name has lower-case letters, digits and dashes alone; found {self.name!r}")


# FP32: what another order of summation changes. FP16 and BF16: 11 and 8 bits of significand through tens of layers. INT8
# and FP8: MLPerf Inference's 99 % of the reference's accuracy.
_MLPERF = {"relative-accuracy": 0.99, "cosine-mean": 0.99}
_CAST = "resnet_deploy.precision.cast:cast"

_ROWS = (
    PrecisionRow(
        name="fp32", element="float32", value_bytes=4, mark=0, targets=(),
        gates={"max-rel-error": 1e-4, "cosine-min": 0.9999, "top1-agreement": 0.999},
    ),
    PrecisionRow(
        name="fp16", element="float16", value_bytes=2, mark=1, lowering=_CAST,
        gates={"max-rel-error": 2e-2, "cosine-min": 0.999, "top1-agreement": 0.99},
    ),
    PrecisionRow(
        name="bf16", element="bfloat16", value_bytes=2, mark=3, lowering=_CAST, compute_capability=80,
        gates={"max-rel-error": 1e-1, "cosine-min": 0.99, "top1-agreement": 0.98},
    ),
    PrecisionRow(
        name="int8", element="int8", value_bytes=1, mark=2, quantized=True, targets=("tensorrt", "cpu"), gates=_MLPERF,
        compute_capability=80,
    ),
    PrecisionRow(
        name="fp8", element="float8_e4m3fn", value_bytes=1, mark=4, quantized=True, gates=_MLPERF, compute_capability=89,
    ),
)  # fmt: skip

PRECISIONS: dict[str, PrecisionRow] = {row.name: row for row in _ROWS}


class Precision(str):
    """The name of a row of the table: `Precision("int8")`, or `Precision.INT8`. There is one object a name.

    Raises ValueError for a name that is not in the table.
    """

    __slots__ = ()
    _known: ClassVar[dict[str, Precision]] = {}
    FP32: ClassVar[Precision]
    FP16: ClassVar[Precision]
    BF16: ClassVar[Precision]
    INT8: ClassVar[Precision]
    FP8: ClassVar[Precision]

    def __new__(cls, name: str) -> Precision:
        if name not in PRECISIONS:
            raise ValueError(f"unknown precision {name!r}; choose from {', '.join(PRECISIONS)}")
        return cls._known.setdefault(str(name), super().__new__(cls, name))

    def __repr__(self) -> str:
        return f"Precision({self.value!r})"

    @property
    def value(self) -> str:
        """The name as plain text."""
        return str.__str__(self)

    @property
    def row(self) -> PrecisionRow:
        """All that the table says of it."""
        return PRECISIONS[self]

    def graph_file(self, target: str = "tensorrt") -> str:
        """The name of the ONNX file in a bundle.

        Args:
            target: whose placement of Q/DQ pairs it has; a precision without that target has one file for all.
        """
        return f"model.{self}{'-cpu' if target == 'cpu' and 'cpu' in self.row.targets else ''}.onnx"

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """What JSON may hold: a name of the table."""
        return {"type": "string", "enum": sorted(PRECISIONS)}


Precision.FP32, Precision.FP16, Precision.BF16, Precision.INT8, Precision.FP8 = (Precision(row.name) for row in _ROWS)


def register_precision(row: PrecisionRow) -> Precision:
    """Add a row to the table of this process; the backends that run it are told with `register_backend`.

    Args:
        row: the new precision.

    Returns:
        Its name, which every function takes as `precision`.

    Raises:
        UsageError: the table has a precision of this name.
    """
    if row.name in PRECISIONS:
        raise UsageError(f"there is a precision {row.name!r} already")
    PRECISIONS[row.name] = row
    return Precision(row.name)


def of_element(element: str) -> str:
    """The precision whose weights are of a type, by numpy's name of that; the type's own name where there is none."""
    return next((row.name for row in PRECISIONS.values() if row.element == element), element)


def all_precisions() -> list[Precision]:
    """Every precision of the table, in its order."""
    return [Precision(name) for name in PRECISIONS]
