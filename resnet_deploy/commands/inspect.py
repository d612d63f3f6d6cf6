"""`inspect`: what is in a graph or a plan."""

from __future__ import annotations

import click

from resnet_deploy.commands.options import json_option
from resnet_deploy.commands.output import show, warn
from resnet_deploy.commands.program import program
from resnet_deploy.terminal import inspect as text


@click.command()
@click.argument("file", metavar="FILE")
@click.option("--trust", is_flag=True, help="Read a plan that no manifest knows: that runs its code, on this GPU.")
@json_option
def inspect(file: str, trust: bool, as_json: bool) -> None:
    """Show an ONNX file's inputs, outputs and layers, or the precision in which a plan's layers really compute.

    \b
    Example:
        resnet-deploy inspect build/resnet50/model.fp32.onnx
        resnet-deploy inspect build/resnet50/model.int8.tensorrt-rtx-1.7.1.116.sm86.plan
    """
    import resnet_deploy as rd

    program().divide()  # reading a plan, or a file that is hostile, runs a runtime's own code
    report = rd.inspect(file, trust=trust)
    show(report.to_dict(), lambda: text.inspected(report), as_json)
    for warning in report.warnings:
        warn(warning)
