"""What is judged on data: verify, tune."""

from __future__ import annotations

from typing import Any

import click

from resnet_deploy.commands.options import data_options, json_option, number, precision_options
from resnet_deploy.commands.output import attempt, given_of, judge, show, warn
from resnet_deploy.commands.program import program
from resnet_deploy.terminal import judging as text
from resnet_deploy.terminal.progress import Bars


@click.command()
@click.argument("bundle", metavar="DIR")
@click.option("--data", required=True, help="A folder of images, an .npz file, `digits`, or `random:N`.")
@click.option(
    "--backend",
    "backends",
    multiple=True,
    default=["onnxruntime"],
    show_default=True,
    help="What to compare with eager, as in onnxruntime:cuda or eager:fp16; may be repeated.",
)
@number("--batch", default=32, show_default=True, help="Images at a time.")
@click.option(
    "--crops",
    type=click.Choice(["1", "10"]),
    default="1",
    show_default=True,
    callback=lambda *given: int(given[2]),
    help="Views of each image: the centre, or ten whose probabilities are averaged.",
)
@click.option("--layers", "by_layer", is_flag=True, help="Say block by block where eager and the bundle's graphs part.")
@data_options
@json_option
def verify(bundle: str, data: str, by_layer: bool, as_json: bool, **given: Any) -> None:
    """Prove that the bundle's files answer as the eager model does; exit code 1 when a gate fails.

    Metrics: max-abs-error, mean-abs-error, max-rel-error, cosine-mean, cosine-min, top1-agreement, top5-agreement,
    top1-accuracy, accuracy-difference.

    \b
    Example:
        resnet-deploy verify build/resnet50 --data val/ --gate top1-agreement=0.99 --gate max-abs-error=1e-3
    """
    import resnet_deploy as rd

    running = program()
    running.divide()
    with Bars(running.at) as bars:
        verdicts, error = attempt(lambda: rd.verify(bundle, data, progress=bars, **given))
        parted = rd.layers(bundle, data, backends=given["backends"], progress=bars) if by_layer else None
    results: dict[str, Any] = {"bundle": bundle, "results": [verdict.to_dict() for verdict in verdicts]}
    if parted is not None:
        results["layers"] = parted.to_dict()
    show(results, lambda: text.verdicts(verdicts) + ("" if parted is None else f"\n\n{text.layers(parted)}"), as_json)
    for item in verdicts[0].data.skipped:
        warn(f"skipped {item.name}: {item.reason}")
    for warning in dict.fromkeys(warning for verdict in verdicts for warning in verdict.warnings):
        warn(warning)
    judge([f"{verdict.candidate}: {failure}" for verdict in verdicts for failure in verdict.failures], error=error)


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
@click.option("--plot", type=click.Path(dir_okay=False), help="Draw the sensitivity of each block to this SVG file.")
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
