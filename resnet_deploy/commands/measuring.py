"""What is measured: bench."""

from __future__ import annotations

from typing import Any

import click

from resnet_deploy.commands.options import (
    batches,
    data_options,
    export_options,
    json_option,
    measure_options,
    number,
    precision_options,
    scenario_options,
)
from resnet_deploy.commands.output import attempt, complain, fail, given_of, judge, show, warn
from resnet_deploy.commands.program import program
from resnet_deploy.errors import EXIT_GATE, EXIT_INTERRUPTED, EXIT_MACHINE
from resnet_deploy.terminal import measuring as text
from resnet_deploy.terminal.progress import Bars


@click.command()
@click.argument("target", metavar="ARCH|DIR")
@click.option("-o", "--output", metavar="DIR", help="The bundle of an ARCH. [default: build/ARCH]")
@click.option("--data", help="A folder of images, an .npz file, `digits`, or `random:N`. [default: random pixels]")
@batches("--batch", metavar="LIST", help="Batch sizes. [default: 1,8,32]")
@click.option(
    "--backend",
    "backends",
    multiple=True,
    help="What to measure, as in onnxruntime:cuda or eager:fp16,channels_last; may be repeated. [default: all that run here]",
)
@number(
    "--duration",
    "duration_s",
    default=3.0,
    show_default=True,
    help="Seconds of sampling for each backend and batch.",
)
@data_options
@measure_options
@scenario_options
@click.option("--fresh", is_flag=True, help="Measure again what was measured before.")
@click.option("--detail", is_flag=True, help="Show the parts of each latency and the floor on a CPU too.")
@click.option("--profile", is_flag=True, help="Also what each layer takes.")
@click.option("--check-trtexec", is_flag=True, help="Also run trtexec on the plans, with the same settings, and compare.")
@click.option(
    "--trtexec", metavar="PATH", help="Where it is, a program or its folder; implies --check-trtexec. [default: PATH]"
)
@click.option("--report", metavar="FILE", help="Also write the report: .html, .md or .json.")
@export_options
@precision_options
@json_option
def bench(target: str, as_json: bool, detail: bool, **given: Any) -> None:
    """Measure ARCH or a bundle, after whatever is missing of export and verification; exit code 1 when a gate fails.

    Backends are measured in turns, so that a drifting machine drifts under all of them. All times are of a whole batch;
    in brackets is what trtexec calls them:

    \b
      p50, p90, p99  end-to-end, host to host: images in host memory to answers
                     in host memory, one batch at a time [End-to-End Host Latency]
      device         the inference alone by the host's clock, the batch being bound
      enqueue        the host's part in starting an inference [Enqueue Time]
      H2D, D2H       copies to and from the GPU, by its clock [H2D Latency, D2H Latency]
      compute        the inference by the GPU's clock [GPU Compute Time]
      host           H2D + compute + D2H [Latency; before, Host Latency]
      queued/s       images a second with one query queued ahead on each stream,
                     images and answers staying on the GPU [Throughput, --noDataTransfers]
      floor          the least time of the device, by its roofline
      of ceiling     how much of that was reached, queued where that was measured

    Those from "enqueue" to "queued/s" are of backends on a GPU.

    \b
    Example:
        resnet-deploy bench resnet50 --weights ckpt.pth --data val/ --batch 1,8,32
        resnet-deploy bench resnet50 --backend tensorrt --precision fp16,int8 --streams 2
    """
    import resnet_deploy as rd

    running = program()
    crashes = running.divide(restarts=True)  # a runtime that crashes takes its own rows with it, and no others
    options = given_of({**given, "backends": given["backends"] or None})
    with Bars(running.at) as bars:
        report, error = attempt(lambda: rd.bench(target, progress=bars, crashes=crashes, **options))
    show(report.to_dict(), lambda: text.bench(report, detail=detail), as_json)
    for warning in report.warnings:
        warn(warning)
    if report.interrupted:
        if error is not None:
            complain(str(error))
        fail("interrupted; what was measured by then is above. Run the command again to go on", EXIT_INTERRUPTED)
    judge(report.failures, EXIT_MACHINE if report.broken else EXIT_GATE, error=error)
