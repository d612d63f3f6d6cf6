"""`inspect`: what is in a graph or a plan."""

from __future__ import annotations

import cloup

from resnet_deploy.commands.options import json_option
from resnet_deploy.commands.output import show, warn
from resnet_deploy.commands.program import program
from resnet_deploy.terminal import inspect as text


@cloup.command()
@cloup.argument("path", metavar="FILE")
@cloup.option_group(
    "Plans",
    cloup.option("--trust", is_flag=True, help="Read a plan that no manifest lists: that runs code in it, on this GPU."),
)
@cloup.option_group("Output", json_option)
def inspect(path: str, trust: bool, as_json: bool) -> None:
    """Show the layers of an ONNX file or a plan, and their precision.

    For an ONNX file, its inputs and outputs are shown too. The precision of a plan's layers is the one in which they really
    compute.

    \b
    Example:
        resnet-deploy inspect build/resnet50/model.fp32.onnx
        resnet-deploy inspect build/resnet50/model.int8.tensorrt-rtx-1.7.1.116.sm86.plan
    """
    import resnet_deploy as rd

    program().divide()  # reading a plan, or a file that is hostile, runs a runtime's own code
    report = rd.inspect(path, trust=trust)
    show(report.to_dict(), lambda: text.inspected(report), as_json)
    for warning in report.warnings:
        warn(warning)
