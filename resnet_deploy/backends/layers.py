"""What each layer of an inference takes: the one form that every runtime's profiler is brought into."""

from __future__ import annotations

import re
import statistics
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

from resnet_deploy.precisions import of_element

WARM_UPS = 3  # inferences that are not counted: kernels are chosen, caches and pools are filled
# Runtimes' names of tensor types by numpy's.
_ELEMENTS = {
    "float": "float32", "f32": "float32", "f16": "float16", "bf16": "bfloat16", "u8": "uint8", "i8": "int8", "i32": "int32",
    "i64": "int64", "boolean": "bool",
}  # fmt: skip
_QUANTIZED = re.compile(r"conv|gemm|matmul|fullyconnected|qlinear", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class LayerTime:
    """One kernel or operator, as the runtime runs it.

    Attributes:
        name: of the module that it computes; of several that were fused, the main one.
        kind: the runtime's own word.
        precision: of what it reads first, None where the runtime does not say.
        time_s: median over the runs, seconds.
        onnx: names of the graph's nodes that it was made of, () where it has none.
    """

    name: str
    kind: str
    precision: str | None
    time_s: float
    onnx: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class LayerTimes:
    """A profile of one batch.

    Attributes:
        layers: in the order in which they ran.
        wall_s: median of a whole inference under the profiler, enqueue to synchronize, seconds.
    """

    layers: tuple[LayerTime, ...]
    wall_s: float


def median(values_s: Sequence[float]) -> float:
    """Median of the counted runs: those after the warm-up."""
    return statistics.median(values_s[WARM_UPS:])


def quantizes(name: str) -> bool:
    """Whether a node is one of our QuantizeLinear or DequantizeLinear, by its name."""
    return name.endswith((".q", ".dq"))


def title(made_of: Iterable[str], otherwise: str, elsewhere: Collection[str] = ()) -> str:
    """The node that names a group: the first that does not only quantize, rather one that is not computed elsewhere."""
    names = [name for name in made_of if not quantizes(name)]
    return next((name for name in names if name not in elsewhere), names[0] if names else otherwise)


def precision(element: str, kind: str) -> str:
    """A runtime's name of a tensor type by ours; unsigned activations of INT8 arithmetic are INT8."""
    element = _ELEMENTS.get(element, element)
    return "int8" if element == "uint8" and _QUANTIZED.search(kind) else of_element(element)
