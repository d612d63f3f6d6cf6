"""Groups of options that several commands share."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from resnet_deploy import limits
from resnet_deploy.errors import UsageError
from resnet_deploy.specs import parse_batches

F = TypeVar("F", bound=Callable[..., Any])


def options(*decorators: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, in the order given."""

    def apply(command: F) -> F:
        for decorator in reversed(decorators):
            command = decorator(command)
        return command

    return apply


if TYPE_CHECKING:
    _Type = click.ParamType[Any]
else:  # not generic before click 8.4
    _Type = click.ParamType


class Number(_Type):
    """A number within the limits of an option, by its name in `limits.LIMITS`; refused before any work."""

    name = "number"

    def __init__(self, option: str) -> None:
        self.option = option

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return self.read(value) if isinstance(value, str) else value
        except UsageError as exc:
            self.fail(str(exc), param, ctx)

    def read(self, text: str) -> Any:
        return limits.parse(self.option, text, label="it")


class Time(Number):
    """Seconds, of a number with its unit."""

    name = "time"

    def read(self, text: str) -> float:
        parts = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(us|ms|s|min)", text.strip(), re.ASCII)
        if parts is None:
            raise UsageError(f"{text!r} is not a time with its unit, as in 15ms, 10s or 10min")
        value_s = float(parts[1]) * {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}[parts[2]]
        limits.check(self.option, value_s, label="it")
        return value_s


class Channels(Number):
    """A number for each of the three channels."""

    name = "channels"

    def read(self, text: str) -> tuple[float, ...]:
        parts = text.split(",")
        if len(parts) != 3:
            raise UsageError("three numbers separated by commas, as in 0.485,0.456,0.406")
        return tuple(limits.parse(self.option, part, label="each") for part in parts)


class Batches(Number):
    """Batch sizes, separated by commas."""

    name = "batches"

    def read(self, text: str) -> tuple[int, ...]:
        return parse_batches(text)


class Profiles(Number):
    """An optimization profile, kept as its text."""

    name = "profile"

    def read(self, text: str) -> str:
        from resnet_deploy.engine.options import Profile

        Profile.parse(text)
        return text


def _option(kind: type[Number]) -> Callable[..., Callable[[F], F]]:
    """An option of a type that has the limits of the option's name in Python."""

    def option(*names: str, **attributes: Any) -> Callable[[F], F]:
        return click.option(*names, type=kind(names[-1].lstrip("-").replace("-", "_")), **attributes)

    return option


number, time, channels, batches, profiles = map(_option, (Number, Time, Channels, Batches, Profiles))
json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
overwrite_option = click.option("--overwrite", is_flag=True, help="Replace whatever bundle the folder holds.")
data_options = options(
    number("--limit", help="Use so many images, evenly spaced."),
    click.option("--strict", is_flag=True, help="Fail at the first image that cannot be read."),
    click.option(
        "--gate", "gates", multiple=True, metavar="METRIC=LIMIT", help="A condition in place of a default; may be repeated."
    ),
    number("--threads", help="CPU threads of each backend. [default: all cores]"),
)
export_options = options(
    click.option("--weights", help="A .pth, .pt or .safetensors file, IMAGENET1K_V1, IMAGENET1K_V2 or DEFAULT."),
    number("--num-classes", help="Classes of the classifier. [default: the checkpoint's]"),
    click.option("--new-head", is_flag=True, default=None, help="A fresh classifier for --num-classes (transfer learning)."),
    click.option("--head", help="logits, probabilities, embedding, features or topk:K. [default: logits]"),
    click.option("--l2-normalize", is_flag=True, default=None, help="Embeddings of unit length."),
    click.option(
        "--input",
        type=click.Choice(["float", "uint8"]),
        help="Normalized NCHW float32, or NHWC uint8 pixels that the graph normalizes. [default: float]",
    ),
    number("--image-size", help="Input size in pixels. [default: the checkpoint's]"),
    number("--resize", help="Size of the shorter edge before the crop. [default: the checkpoint's]"),
    channels("--mean", metavar="R,G,B", help="Channel means in [0, 1]. [default: the checkpoint's]"),
    channels("--std", metavar="R,G,B", help="Channel deviations. [default: the checkpoint's]"),
    number("--max-batch", help="The largest batch that is checked against eager. [default: 32]"),
    number("--opset", help="ONNX opset. [default: 20]"),
    overwrite_option,
)

flag = functools.partial(click.option, is_flag=True, default=None)
precision_options = options(
    click.option("--precision", metavar="LIST", help="Of fp32, fp16, bf16, int8, fp8. [default: fp32]"),
    click.option(
        "--target",
        "targets",
        metavar="LIST",
        help="What runs the INT8 files: tensorrt (and OpenVINO), cpu (ONNX Runtime). [default: both]",
    ),
    click.option("--calibration", metavar="DATA", help="Images for INT8 and FP8, as in --data, or a calibration.json."),
    number("--calibration-images", help="Use so many of them, evenly spaced. [default: 512]"),
    click.option("--calibration-method", help="auto, max, percentile:P, entropy or mse. [default: auto]"),
    click.option("--other-layers", type=click.Choice(["fp16", "fp32"]), help="Of what is not quantized. [default: fp16]"),
    click.option("--keep", metavar="LIST", help="Layers that stay FP32 or FP16, or what they lie under, as in layer1.0,fc."),
    click.option("--grouped", type=click.Choice(["auto", "quantize", "keep"]), help="Convolutions in groups. [default: auto]"),
    flag("--quantize-head", help="Quantize the classifier too."),
    flag("--clip-weights", help="Weight scales of least squared error, not of the largest weight."),
    flag("--equalize", help="Equalize channels between convolutions before calibration."),
    flag("--correct-bias", help="Take the mean error of rounded weights out of the biases."),
    flag("--reconstruct", help="Train scales, weights, biases to FP32's answers on the calibration images (INT8, tensorrt)."),
    flag("--reduce-range", help="7 bits of weight, for CPUs with AVX2 but without VNNI (cpu)."),
    flag("--native-io", help="FP16 or BF16 inputs and outputs."),
)
_on = functools.partial(click.option, default=None)
measure_options = options(
    _on("--cuda-graph/--no-cuda-graph", help="Of each inference on a GPU. [trtexec: --useCudaGraph; default: the backend's]"),
    number("--streams", help="Inferences beside each other on a GPU. [trtexec: --infStreams; default: 1]"),
    _on("--spin-wait/--no-spin-wait", help="Ask the GPU again and again, or sleep. [trtexec: --useSpinWait; default: ask]"),
    flag("--data-transfers", help="Copy images and answers with each queued query. [trtexec without it: --noDataTransfers]"),
    flag("--inputs-on-device", help="Of these copies the answers' alone, as MLPerf has it."),
    click.option(
        "--roof", metavar="GPU", help="The GPU whose published ceilings figures are compared with, as H200. [default: this one]"
    ),
    flag("--measure-roof", help="Measure this machine's own ceilings instead: a large copy, and large matrix products."),
)
scenario_options = options(
    click.option(
        "--scenario",
        multiple=True,
        default=["sweep"],
        show_default=True,
        metavar="LIST",
        help="sweep (latency by batch), or MLPerf's: single-stream, multi-stream, server, offline; may be repeated.",
    ),
    time("--latency-bound", "latency_bound_s", help="Of 99 % of server's answers. [default: 15ms]"),
    time(
        "--min-duration",
        "min_duration_s",
        help="Of each MLPerf run; theirs: 10min. [default: 10s]",
    ),
    number("--min-queries", help="Of each MLPerf run. [default: what its percentile needs]"),
    number("--rate-tolerance", help="How near server's highest valid rate must be. [default: 0.05]"),
    flag("--accuracy", help="Also MLPerf's accuracy mode, in every scenario."),
)
