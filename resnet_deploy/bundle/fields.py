"""What a field of a manifest may hold.

Patterns end in `$(?!\\n)`: `$` alone would let a line break through.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypedDict

from msgspec import Meta

from resnet_deploy.bundle.names import FILE_NAME

FileName = Annotated[str, Meta(pattern=FILE_NAME)]
Sha256 = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")]
Key = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}$(?!\n)")]
ImageDigest = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}$(?!\n)")]
Origins = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.+=-]{1,4096}$(?!\n)")]  # digests joined by +, or a published file's name
Text = Annotated[str, Meta(max_length=100_000)]
Name = Annotated[str, Meta(min_length=1, max_length=1000)]
Time = Annotated[str, Meta(max_length=40)]
Count = Annotated[int, Meta(ge=0, le=2**53)]
Positive = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Seconds = Annotated[float, Meta(ge=0)]
ProfileText = Annotated[str, Meta(pattern=r"^[0-9]{1,6}:[0-9]{1,6}:[0-9]{1,6}$(?!\n)")]
Facts = dict[str, Any]  # of runtimes and machines, as they say them; nothing is computed from it
Source = Literal["checkpoint", "option", "assumed"]


class LoweringSettings(TypedDict, total=False):
    """Those of `LoweringOptions` that a file depends on."""

    target: Literal["tensorrt", "cpu"]
    other_layers: Literal["fp16", "fp32"]
    keep: list[Text]
    grouped: Literal["auto", "quantize", "keep"]
    quantize_head: bool
    clip_weights: bool
    equalize: bool
    correct_bias: bool
    reconstruct: bool
    reduce_range: bool
    native_io: bool


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Seconds an inference of a whole batch."""

    p50: Annotated[float, Meta(gt=0)]
    p90: Seconds
    p99: Seconds
    mean: Seconds
    iqr: Seconds
