"""`build`: TensorRT plans of a bundle."""

from __future__ import annotations

from typing import Any

import click

from resnet_deploy.commands.options import flag, json_option, number, profiles
from resnet_deploy.commands.output import given_of, show, warn
from resnet_deploy.commands.program import program
from resnet_deploy.terminal import build as text
from resnet_deploy.terminal.progress import Bars


@click.command()
@click.argument("bundle", metavar="DIR")
@click.option("--precision", default="fp32", show_default=True, metavar="LIST", help="Of fp32, fp16, bf16, int8, fp8.")
@profiles(
    "--batch",
    multiple=True,
    metavar="PROFILE",
    help="A batch size, or smallest:best:largest; a profile each time. [default: 1:8:32]",
)
@click.option("--flavour", help="auto, tensorrt or tensorrt-rtx. [default: auto]")
@click.option("--target", metavar="LIST", help="Compute capabilities, as sm86,sm89 (tensorrt-rtx). [default: this GPU's]")
@number(
    "--optimization-level",
    help="0 (fast to build) to 5 (fast to run). [default: the package's, 3]",
)
@number("--workspace-mib", help="Scratch memory that kernels may use, MiB. [default: all]")
@click.option("--hardware-compatible", help="ampere-plus or same-compute-capability (tensorrt).")
@flag("--version-compatible", help="Also for later versions of TensorRT (tensorrt).")
@flag("--sparse-weights", help="Use 2:4 sparse kernels where weights are so.")
@flag("--tf32", help="TF32 in FP32 layers: faster, and 11 bits instead of 24.")
@click.option("--timing-cache/--no-timing-cache", default=None, help="Keep kernels' times. [default: where there is one]")
@json_option
def build(bundle: str, as_json: bool, **given: Any) -> None:
    """Build TensorRT plans of a bundle, and prove the precision of their layers; exit code 1 where it is not what was asked.

    TensorRT builds for the GPU that it runs on; TensorRT-RTX for any, without one.

    \b
    Example:
        resnet-deploy build build/resnet50 --precision fp16,int8 --batch 1 --batch 2:8:32
        resnet-deploy build build/resnet50 --precision int8 --flavour tensorrt-rtx --target sm86,sm89
    """
    import resnet_deploy as rd

    running = program()
    running.divide()
    with Bars(running.at) as bars:
        plans = rd.build(bundle, progress=bars, **given_of({**given, "batch": given["batch"] or None}))
    show({"bundle": bundle, "plans": [plan.to_dict() for plan in plans]}, lambda: text.plans(bundle, plans), as_json)
    for plan in plans:
        for warning in plan.entry.warnings:
            warn(f"{plan.name}: {warning}")
