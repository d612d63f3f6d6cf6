"""`build`: TensorRT plans of a bundle."""

from __future__ import annotations

from typing import Any

import cloup

from resnet_deploy.commands.options import PRECISION_NAMES, flag, formerly, json_option, number, profiles
from resnet_deploy.commands.output import show, warn, without_defaults
from resnet_deploy.commands.program import program
from resnet_deploy.terminal import build as text
from resnet_deploy.terminal.progress import Bars


@cloup.command()
@cloup.argument("bundle", metavar="DIR")
@cloup.option_group(
    "What to build",
    cloup.option("--precision", default="fp32", show_default=True, metavar="LIST", help=f"Of {PRECISION_NAMES}."),
    profiles(
        "--batch",
        multiple=True,
        metavar="PROFILE",
        help="An optimization profile: one batch size, or smallest:best:largest; may be repeated. [default: 1:8:32]",
    ),
)
@cloup.option_group(
    "Which machines the plans are for",
    cloup.option("--flavour", help="auto, tensorrt or tensorrt-rtx. [default: auto]"),
    cloup.option(
        "--compute-capability", metavar="LIST", help="Of the GPUs, as sm86,sm89 (tensorrt-rtx). [default: that of this GPU]"
    ),
    formerly("--target", "--compute-capability"),
    cloup.option("--hardware-compatible", help="ampere-plus or same-compute-capability (tensorrt)."),
    flag("--version-compatible", help="Let later versions of TensorRT, and its lean runtime, run the plan (tensorrt)."),
)
@cloup.option_group(
    "How to build",
    number("--optimization-level", help="0 (fast to build) to 5 (fast to run). [default: the package's, 3]"),
    number("--workspace-mib", help="Scratch memory that kernels may use, MiB. [default: all]"),
    cloup.option(
        "--tiling-optimization",
        metavar="LEVEL",
        help="none, fast, moderate or full: search for kernels that share tiles in the L2 cache. [default: none]",
    ),
    number("--max-aux-streams", help="Streams beside the caller's, for branches at once; 0: none. [default: the package's]"),
    number("--avg-timing", help="Runs averaged for the time of a kernel (tensorrt). [default: the package's, 1]"),
    cloup.option(
        "--input-format",
        metavar="FORMAT",
        help="linear, hwc, chw4, hwc8 or chw32: the layout in which the plan takes its images; the last three need FP16 inputs "
        "(export --native-io) or, chw32, FP32. [default: linear]",
    ),
    flag("--sparse-weights", help="Use 2:4 sparse kernels for weights that have that pattern."),
    flag("--tf32", help="Allow TF32 in FP32 layers: faster, with 11 bits of precision instead of 24."),
    cloup.option(
        "--timing-cache/--no-timing-cache",
        default=None,
        help="Keep measured kernel times for the next build. [default: where the package does]",
    ),
)
@cloup.option_group("Output", json_option)
def build(bundle: str, as_json: bool, **options: Any) -> None:
    """Build TensorRT plans, and check the precision of their layers.

    TensorRT builds for the GPU that it runs on; TensorRT-RTX builds for any GPU, and needs none. Exit code 1 when layers do
    not compute in the precision that was asked for.

    \b
    Example:
        resnet-deploy build build/resnet50 --precision fp16,int8 --batch 1 --batch 2:8:32
        resnet-deploy build build/resnet50 --precision int8 --flavour tensorrt-rtx --compute-capability sm86,sm89
    """
    import resnet_deploy as rd

    running = program()
    running.divide()
    with Bars(running.at) as bars:
        plans = rd.build(bundle, progress=bars, **without_defaults(options))
    show({"bundle": bundle, "plans": [plan.to_dict() for plan in plans]}, lambda: text.built(bundle, plans), as_json)
    for plan in plans:
        for warning in plan.entry.warnings:
            warn(f"{plan.name}: {warning}")
