"""What is measured: bench."""

from __future__ import annotations

from typing import Any

import click

from resnet_deploy.commands.options import data_options, export_options, json_option, precision_options, scenario_options
from resnet_deploy.commands.output import given_of, judge, show
from resnet_deploy.errors import EXIT_GATE, EXIT_MACHINE
from resnet_deploy.terminal import measuring as text
from resnet_deploy.terminal.progress import Bars


@click.command()
@click.argument("target", metavar="ARCH|DIR")
@click.option("-o", "--output", metavar="DIR", help="The bundle of an ARCH. [default: build/ARCH]")
@click.option("--data", help="A folder of images, an .npz file, `digits`, or `random:N`. [default: random:32]")
@click.option("--batch", help="Batch sizes. [default: 1,8,32]")
@click.option(
    "--backend",
    "backends",
    multiple=True,
    default=["eager", "onnxruntime"],
    show_default=True,
    help="What to measure, as in onnxruntime:cuda or eager:fp16,channels_last; may be repeated.",
)
@click.option(
    "--duration",
    "duration_s",
    type=float,
    default=3.0,
    show_default=True,
    help="Seconds of sampling for each backend and batch.",
)
@data_options
@scenario_options
@click.option("--fresh", is_flag=True, help="Measure again what was measured before.")
@click.option("--report", metavar="FILE", help="Also write the report: .html, .md or .json.")
@export_options
@precision_options
@json_option
def bench(target: str, as_json: bool, **given: Any) -> None:
    """Measure ARCH or a bundle, after whatever is missing of export and verification; exit code 1 when a gate fails.

    Latency is host to host: images in host memory to answers in host memory. "device ms" is the inference alone, the
    batch being bound. Backends are measured in turns, so that a drifting machine drifts under all of them.

    \b
    Example:
        resnet-deploy bench resnet50 --weights ckpt.pth --data val/ --batch 1,8,32
    """
    import resnet_deploy as rd

    with Bars() as bars:
        report = rd.bench(target, progress=bars, **given_of(given))
    show(report.to_dict(), lambda: text.bench(report), as_json)
    for warning in report.warnings:
        click.echo(f"Warning: {warning}", err=True)
    judge(report.failures, EXIT_MACHINE if report.broken else EXIT_GATE)
