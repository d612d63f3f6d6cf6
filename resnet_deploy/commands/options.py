"""Groups of options that several commands share."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click
import cloup

from resnet_deploy import limits
from resnet_deploy.commands.output import warn
from resnet_deploy.errors import UsageError
from resnet_deploy.precisions import PRECISIONS
from resnet_deploy.specs import parse_batches

PRECISION_NAMES = ", ".join(PRECISIONS)

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
        return limits.parse_option(self.option, text, label="it")


class Time(Number):
    """Seconds, of a number with its unit."""

    name = "time"

    def read(self, text: str) -> float:
        return limits.seconds(self.option, text, label="it")


class Channels(Number):
    """A number for each of the three channels."""

    name = "channels"

    def read(self, text: str) -> tuple[float, ...]:
        parts = text.split(",")
        if len(parts) != 3:
            raise UsageError("three numbers separated by commas, as in 0.485,0.456,0.406")
        return tuple(limits.parse_option(self.option, part, label="each") for part in parts)


class Batches(Number):
    """Batch sizes, separated by commas."""

    name = "batches"

    def read(self, text: str) -> tuple[int, ...]:
        return parse_batches(text)


class Profiles(Number):
    """An optimization profile, kept as its text."""

    name = "profile"

    def read(self, text: str) -> str:
        from resnet_deploy.engine.options import OptimizationProfile

        OptimizationProfile.parse(text)
        return text


def _option(kind: type[Number]) -> Callable[..., Callable[[F], F]]:
    """An option of a type that has the limits of the option's name in Python."""

    def option(*names: str, **attributes: Any) -> Callable[[F], F]:
        return cloup.option(*names, type=kind(_in_python(names[-1])), **attributes)

    return option


def _in_python(option: str) -> str:
    return option.lstrip("-").replace("-", "_")


def formerly(old: str, new: str) -> Callable[[F], F]:
    """The name that an option had before, hidden: it warns, and its value is the default of the option's new name."""

    def take(context: click.Context, option: click.Parameter, value: str | None) -> None:
        if value is not None:
            warn(f"{old} is now called {new}; the old name will go")
            context.default_map = {**(context.default_map or {}), _in_python(new): value}

    return cloup.option(old, hidden=True, is_eager=True, expose_value=False, callback=take, help=f"The former name of {new}.")


number, time, channels, batches, profiles = map(_option, (Number, Time, Channels, Batches, Profiles))
flag = functools.partial(cloup.option, is_flag=True, default=None)
_switch = functools.partial(cloup.option, default=None)

json_option = cloup.option("--json", "as_json", is_flag=True, help="Print one JSON object on standard output.")
output_options = cloup.option_group("Output", json_option)  # of commands that have no other such options

DATA = "A folder of images, an .npz file, `digits`, or `random:N` (N images of random pixels)."
limit_option = number("--limit", help="Use this many of the images, evenly spaced. [default: all]")
strict_option = cloup.option("--strict", is_flag=True, help="Fail at the first image that cannot be read.")
threads_option = number("--threads", help="CPU threads of each backend. [default: all cores]")
overwrite_option = cloup.option("--overwrite", is_flag=True, help="Replace whatever bundle the folder holds.")
gate_options = cloup.option_group(
    "Gates",
    cloup.option(
        "--gate",
        multiple=True,
        metavar="METRIC=LIMIT",
        help="A condition on the answers, as top1-agreement=0.99, in place of the default of its metric; may be repeated.",
    ),
)

model_options = options(
    cloup.option_group(
        "Model",
        cloup.option("--weights", help="A .pth, .pt or .safetensors file, IMAGENET1K_V1, IMAGENET1K_V2 or DEFAULT."),
        number("--num-classes", help="Classes of the classifier. [default: the checkpoint's]"),
        flag("--new-head", help="Start a fresh classifier of --num-classes classes, for transfer learning."),
        cloup.option("--head", help="logits, probabilities, embedding, features or topk:K. [default: logits]"),
        flag("--l2-normalize", help="Scale embeddings to unit length."),
        number("--max-batch", help="The largest batch that the export checks. [default: 32]"),
        number("--opset", help="ONNX opset. [default: 20]"),
    ),
    cloup.option_group(
        "Input and preprocessing",
        cloup.option(
            "--input",
            type=click.Choice(["float", "uint8"]),
            help="What clients send: normalized NCHW float32, or NHWC uint8 pixels that the graph normalizes. [default: float]",
        ),
        number("--image-size", help="Input size in pixels. [default: the checkpoint's]"),
        number("--resize", help="Size of the shorter edge before the crop. [default: the checkpoint's]"),
        channels("--mean", metavar="R,G,B", help="Channel means, of pixels in [0, 1]. [default: the checkpoint's]"),
        channels("--std", metavar="R,G,B", help="Channel standard deviations, likewise. [default: the checkpoint's]"),
    ),
)
precision_options = options(
    cloup.option_group(
        "Precision",
        cloup.option("--precision", metavar="LIST", help=f"Of {PRECISION_NAMES}. [default: fp32]"),
        cloup.option(
            "--int8-target",
            metavar="LIST",
            help="What the INT8 files are for: tensorrt (also TensorRT-RTX and OpenVINO), cpu (ONNX Runtime). [default: both]",
        ),
        formerly("--target", "--int8-target"),
        cloup.option(
            "--other-layers", type=click.Choice(["fp16", "fp32"]), help="Precision of what is not quantized. [default: fp16]"
        ),
        cloup.option(
            "--keep", metavar="LIST", help="Layers, or modules with all their layers, to keep in FP32 or FP16: layer1.0,fc."
        ),
        cloup.option(
            "--grouped",
            type=click.Choice(["auto", "quantize", "keep"]),
            help="What to do with grouped convolutions. [default: auto]",
        ),
        flag("--quantize-head", help="Quantize the classifier too."),
        flag("--native-io", help="Use FP16 or BF16 for inputs and outputs too, in files of that precision."),
    ),
    cloup.option_group(
        "Calibration of INT8 and FP8",
        cloup.option("--calibration", metavar="DATA", help="Images, as in --data, or a calibration.json."),
        number("--calibration-images", help="Use this many of them, evenly spaced. [default: 512]"),
        cloup.option("--calibration-method", help="auto, max, percentile:P, entropy or mse. [default: auto]"),
    ),
    cloup.option_group(
        "Corrections of quantization errors",
        flag("--clip-weights", help="Choose weight scales by the least squared error, not by the largest weight."),
        flag("--equalize", help="Equalize channels between convolutions before calibration."),
        flag("--correct-bias", help="Subtract the mean error of rounded weights from the biases."),
        flag("--reconstruct", help="Train scales, weights and biases to give FP32's answers (INT8 for tensorrt)."),
        flag("--reduce-range", help="Use 7 bits of weight, for CPUs with AVX2 but without VNNI (INT8 for cpu)."),
    ),
)
measure_options = (
    _switch("--cuda-graph/--no-cuda-graph", help="Start each inference as one CUDA graph. [trtexec: --useCudaGraph; "
            "default: the backend's choice]"),
    flag("--graph-copies", help="Make a query, with both its copies, one CUDA graph: for latency (eager, TensorRT)."),
    number("--streams", help="Inferences that run side by side on a GPU. [trtexec: --infStreams; default: 1]"),
    _switch("--spin-wait/--no-spin-wait", help="Wait for the GPU by polling it, or by sleeping. [trtexec: --useSpinWait; "
            "default: polling]"),
    flag("--data-transfers", help="Copy images and answers with each queued query. [trtexec without it: --noDataTransfers]"),
    flag("--inputs-on-device", help="Of these copies, make only that of the answers, as MLPerf does."),
    time("--sustained", help="Also run queries without a pause for so long, with the GPU's clocks and power beside them."),
)  # fmt: skip
roofline_options = cloup.option_group(
    "Roofline",
    cloup.option("--roof", metavar="GPU", help="Compare with the published ceilings of a GPU, as H200. [default: that here]"),
    flag("--measure-roof", help="Measure this machine's own ceilings instead: a large copy, and large matrix products."),
)
scenario_options = cloup.option_group(
    "MLPerf scenarios",
    time("--latency-bound", help="The latency that 99 % of the server scenario's answers must keep. [default: 15ms]"),
    time("--min-duration", help="The shortest run; those of MLPerf submissions take 10min. [default: 10s]"),
    number("--min-queries", help="The fewest queries of a run. [default: what its percentile needs]"),
    number("--rate-tolerance", help="How closely to find the server scenario's highest valid rate. [default: 0.05]"),
    flag("--accuracy", help="Also run MLPerf's accuracy mode in every scenario."),
)
