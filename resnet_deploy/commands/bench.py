"""`bench`: how fast a bundle is, on each backend."""

from __future__ import annotations

from typing import Any

import cloup

from resnet_deploy.commands.options import (
    DATA,
    batches,
    gate_options,
    json_option,
    limit_option,
    measure_options,
    model_options,
    number,
    overwrite_option,
    precision_options,
    roofline_options,
    scenario_options,
    strict_option,
    threads_option,
)
from resnet_deploy.commands.output import attempt, complain, exit_on_failures, fail, show, warn, without_defaults
from resnet_deploy.commands.program import program
from resnet_deploy.errors import EXIT_GATE, EXIT_INTERRUPTED, EXIT_MACHINE
from resnet_deploy.terminal import bench as text
from resnet_deploy.terminal.progress import Bars


@cloup.command()
@cloup.argument("model", metavar="ARCH|DIR")
@cloup.option_group(
    "What to measure",
    cloup.option(
        "--backend",
        multiple=True,
        help="As in onnxruntime:cuda or eager:fp16,channels_last; may be repeated. [default: all that run here]",
    ),
    batches("--batch", metavar="LIST", help="Batch sizes. [default: 1,8,32]"),
    cloup.option(
        "--scenario",
        multiple=True,
        default=["sweep"],
        show_default=True,
        metavar="LIST",
        help="sweep (latency by batch size), or MLPerf's: single-stream, multi-stream, server, offline; may be repeated.",
    ),
    cloup.option("--profile", is_flag=True, help="Also measure how long each layer takes."),
    cloup.option("--check-trtexec", is_flag=True, help="Also run trtexec on the plans with the same settings, and compare."),
    cloup.option(
        "--trtexec", metavar="PATH", help="The program or its folder; implies --check-trtexec. [default: found on PATH]"
    ),
)
@cloup.option_group(
    "How to measure",
    number("--duration", default=3.0, show_default=True, help="Seconds of sampling for each backend and batch size."),
    threads_option,
    cloup.option("--fresh", is_flag=True, help="Measure again what was measured before."),
    *measure_options,
)
@roofline_options
@scenario_options
@cloup.option_group(
    "Data",
    cloup.option("--data", help=f"{DATA} [default: random pixels]"),
    limit_option,
    strict_option,
)
@gate_options
@model_options
@precision_options
@cloup.option_group(
    "Output",
    cloup.option("-o", "--output", metavar="DIR", help="The folder of the bundle of ARCH. [default: build/ARCH]"),
    overwrite_option,
    cloup.option("--report", metavar="FILE", help="Also write the report: .html, .md or .json."),
    cloup.option("--detail", is_flag=True, help="Show the parts of each latency, and the roofline's, on a CPU too."),
    json_option,
)
def bench(model: str, as_json: bool, detail: bool, **options: Any) -> None:
    """Measure latency and throughput, and judge the answers by gates.

    ARCH is an architecture, which is exported to a bundle first, and DIR a bundle. Files that were not verified yet are.
    Exit code 1 when a gate fails. Backends take turns, so that a machine that becomes slower does so for all of them. All times
    are of a whole batch; trtexec's name of each is in brackets:

    \b
      p50, p90, p99  end-to-end, host to host: images in host memory to answers
                     in host memory, one batch at a time [End-to-End Host Latency]
      device         the inference alone by the host's clock, without copies
      enqueue        the host's part in starting an inference [Enqueue Time]
      H2D, D2H       copies to and from the GPU, by its clock [H2D Latency, D2H Latency]
      compute        the inference by the GPU's clock [GPU Compute Time]
      host           H2D + compute + D2H [Latency; before, Host Latency]
      queued/s       images a second with one query queued ahead on each stream,
                     images and answers staying on the GPU [Throughput, --noDataTransfers];
                     bursts, which seldom reach the power limit: --sustained does
      floor          the least time that the device needs, by its roofline: its
                     peak arithmetic and memory bandwidth
      of ceiling     how much of that speed was reached, queued where measured

    The figures from "enqueue" to "queued/s" exist for backends on a GPU alone. What makes these faster is an option, after the
    colon of --backend, and stands with each result:

    \b
      eager:cudnn_benchmark  cuDNN times its convolutions, keeps the fastest
      eager:compile,freezing torch.compile, weights taken for constants
      eager:graph_copies, tensorrt:graph_copies
                             a CUDA graph of copy, inference and copy for the
                             end-to-end figures; the others are without copies
      eager:torch_tensorrt   Torch-TensorRT, where it is installed
      onnxruntime:cuda_graph a CUDA graph for each batch size, its own
      onnxruntime:prefer_nhwc
                             convolutions in NHWC
      onnxruntime:heuristic_search
                             cuDNN's guess; without, it times convolutions
      onnxruntime:tensorrt   TensorRT's provider, an engine for each batch
      tensorrt-rtx:no_runtime_cache
                             compile its kernels anew in each process

    Under `nsys profile -t cuda,nvtx` warm-up, rounds and their parts have names.

    \b
    Example:
        resnet-deploy bench resnet50 --weights ckpt.pth --data val/ --batch 1,8,32
        resnet-deploy bench resnet50 --backend tensorrt --precision fp16,int8 --streams 2
    """
    import resnet_deploy as rd

    running = program()
    crashes = running.divide(restarts=True)  # a runtime that crashes takes its own rows with it, and no others
    with Bars(running.at) as bars:
        report, error = attempt(lambda: rd.bench(model, progress=bars, crashes=crashes, **without_defaults(options)))
    show(report.to_dict(), lambda: text.bench_text(report, detail=detail), as_json)
    for warning in report.warnings:
        warn(warning)
    if report.interrupted:
        if error is not None:
            complain(str(error))
        fail("interrupted; what was measured by then is above. Run the command again to go on", EXIT_INTERRUPTED)
    exit_on_failures(report.failures, EXIT_MACHINE if report.broken else EXIT_GATE, error=error)
