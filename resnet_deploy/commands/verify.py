"""`verify`: whether a bundle's files answer as the eager model does."""

from __future__ import annotations

from typing import Any

import click
import cloup

from resnet_deploy.commands.options import (
    DATA,
    PRECISION_NAMES,
    gate_options,
    json_option,
    limit_option,
    number,
    strict_option,
    threads_option,
)
from resnet_deploy.commands.output import attempt, exit_on_failures, show, warn, without_defaults
from resnet_deploy.commands.program import program
from resnet_deploy.terminal import verify as text
from resnet_deploy.terminal.progress import Bars


@cloup.command()
@cloup.argument("bundle", metavar="DIR")
@cloup.option_group(
    "Data",
    cloup.option("--data", required=True, help=DATA),
    limit_option,
    strict_option,
    cloup.option(
        "--crops",
        type=click.Choice(["1", "10"]),
        default="1",
        show_default=True,
        callback=lambda context, option, value: int(value),
        help="Views of each image: the centre, or ten whose probabilities are averaged.",
    ),
)
@cloup.option_group(
    "What to compare with eager PyTorch",
    cloup.option(
        "--backend",
        multiple=True,
        help="As in onnxruntime:int8 or eager:fp16; may be repeated. [default: onnxruntime; with --precision, every backend "
        "of this machine that runs a file in one of these precisions]",
    ),
    cloup.option("--precision", metavar="LIST", help=f"Of {PRECISION_NAMES}, for backends that are named without one."),
    cloup.option("--layers", is_flag=True, help="Also show block by block where the bundle's graphs differ from eager."),
)
@cloup.option_group(
    "How to run them",
    number("--batch", default=32, show_default=True, help="Images at a time."),
    threads_option,
)
@gate_options
@cloup.option_group("Output", json_option)
def verify(bundle: str, data: str, layers: bool, as_json: bool, **options: Any) -> None:
    """Check that a bundle's files answer as eager PyTorch does.

    A gate is a condition on one metric; each precision has default ones. Exit code 1 when a gate fails.

    \b
    Metrics of gates:
        max-abs-error, mean-abs-error   the largest and the mean error of a value
        max-rel-error                   the largest, over eager's largest value
        cosine-mean, cosine-min         of each image's output with eager's
        top1-agreement                  share of images with the same first class
        top5-agreement                  share of eager's first five classes found
        top1-accuracy                   share of labelled images that are right
        relative-accuracy               top-1 accuracy over eager's
        accuracy-difference             top-1 accuracy less eager's

    \b
    Example:
        resnet-deploy verify build/resnet50 --data val/ --gate top1-agreement=0.99 --gate max-abs-error=1e-3
        resnet-deploy verify build/resnet50 --data val/ --precision fp16,int8
    """
    import resnet_deploy as rd

    running = program()
    running.divide()
    with Bars(running.at) as bars:
        verdicts, error = attempt(lambda: rd.verify(bundle, data, progress=bars, **without_defaults(options)))
        compared = [str(verdict.candidate) for verdict in verdicts]
        divergence = rd.compare_layers(bundle, data, backend=compared, progress=bars) if layers else None
    results: dict[str, Any] = {"bundle": bundle, "results": [verdict.to_dict() for verdict in verdicts]}
    if divergence is not None:
        results["layers"] = divergence.to_dict()
    show(results, lambda: text.verified(verdicts, divergence), as_json)
    for item in verdicts[0].data.skipped:
        warn(f"skipped {item.name}: {item.reason}")
    for warning in dict.fromkeys(warning for verdict in verdicts for warning in verdict.warnings):
        warn(warning)
    exit_on_failures([f"{verdict.candidate}: {failure}" for verdict in verdicts for failure in verdict.failures], error=error)
