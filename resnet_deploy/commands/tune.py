"""`tune`: the mix of precisions that passes the gates."""

from __future__ import annotations

from typing import Any

import click
import cloup

from resnet_deploy.commands.options import gate_options, json_option, number, precision_options, strict_option
from resnet_deploy.commands.output import attempt, exit_on_failures, show, without_defaults
from resnet_deploy.commands.program import program
from resnet_deploy.terminal import tune as text
from resnet_deploy.terminal.progress import Bars


@cloup.command()
@cloup.argument("bundle", metavar="DIR")
@cloup.option_group(
    "Data",
    cloup.option("--data", required=True, help="Images on which mixes are judged; those of the calibration are left out."),
    number("--limit", default=256, show_default=True, help="Use this many of them, evenly spaced."),
    strict_option,
)
@cloup.option_group(
    "What is best",
    number(
        "--max-drop", metavar="POINTS", help="Largest loss of top-1 accuracy, in percentage points. [default: 1 % of FP32's]"
    ),
    cloup.option(
        "--backend",
        help="Take the mix that is fastest on this backend, as openvino:int8. [default: the one that keeps fewest operations]",
    ),
    number("--batch", default=1, show_default=True, help="Batch size of that measurement."),
    number("--threads", help="CPU threads of the backend. [default: all cores]"),
)
@gate_options
@precision_options
@cloup.option_group(
    "Output",
    cloup.option("--plot", type=click.Path(dir_okay=False), help="Draw the sensitivity of each block to this SVG file."),
    json_option,
)
def tune(bundle: str, data: str, as_json: bool, **options: Any) -> None:
    """Find which blocks lose accuracy in INT8, and the mix that passes.

    Each block of the network is first quantized alone, which shows how much it costs. Of the mixes of INT8 and higher
    precision that pass the gates, the one with the fewest operations in higher precision is taken or, with --backend, the
    fastest; the bundle's INT8 files are written with it.
    Exit code 1 when no mix passes.

    \b
    Example:
        resnet-deploy tune build/resnet50 --calibration train/ --data val/ --max-drop 0.5
    """
    import resnet_deploy as rd

    running = program()
    running.divide()
    with Bars(running.at) as bars:
        tuning, error = attempt(lambda: rd.tune(bundle, data, progress=bars, **without_defaults(options)))
    show({"bundle": bundle, "tuning": tuning.to_dict()}, lambda: text.tuning(tuning), as_json)
    exit_on_failures([], error=error)
