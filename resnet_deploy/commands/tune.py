"""`tune`: the mix of precisions that passes the gates."""

from __future__ import annotations

from typing import Any

import click

from resnet_deploy.commands.options import json_option, number, precision_options
from resnet_deploy.commands.output import attempt, given_of, judge, show
from resnet_deploy.commands.program import program
from resnet_deploy.terminal import tune as text
from resnet_deploy.terminal.progress import Bars


@click.command()
@click.argument("bundle", metavar="DIR")
@click.option("--data", required=True, help="Images that judge, as in verify; those calibrated on are left out.")
@number("--max-drop", metavar="POINTS", help="Of top-1, in percentage points. [default: 1 % of FP32's]")
@click.option("--backend", help="Measure mixes on it and take the fastest, as in openvino:int8. [default: fewest kept]")
@number("--batch", default=1, show_default=True, help="Of that measurement.")
@number("--limit", default=256, show_default=True, help="Use so many images, evenly spaced.")
@click.option("--strict", is_flag=True, help="Fail at the first image that cannot be read.")
@click.option(
    "--gate", "gates", multiple=True, metavar="METRIC=LIMIT", help="A condition in place of a default; may be repeated."
)
@number("--threads", help="CPU threads of the backend. [default: all cores]")
@click.option("--plot", type=click.Path(dir_okay=False), help="Draw the sensitivities to this SVG or PNG (extra `plot`).")
@precision_options
@json_option
def tune(bundle: str, data: str, as_json: bool, **given: Any) -> None:
    """Find the mix of INT8 and higher precision that passes the gates, and write the bundle's INT8 files with it.

    Blocks are quantized one at a time for their sensitivity. Kept in higher precision are then the fewest operations with
    which the gates hold or, with --backend, those of the fastest mix with which they do. Exit code 1 when none passes.

    \b
    Example:
        resnet-deploy tune build/resnet50 --calibration train/ --data val/ --max-drop 0.5
    """
    import resnet_deploy as rd

    running = program()
    running.divide()
    with Bars(running.at) as bars:
        tuning, error = attempt(lambda: rd.tune(bundle, data, progress=bars, **given_of(given)))
    show({"bundle": bundle, "tuning": tuning.to_dict()}, lambda: text.tuning(tuning), as_json)
    judge([], error=error)
