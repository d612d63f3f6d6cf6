"""`triton`: a bundle in a Triton model repository."""

from __future__ import annotations

from typing import Any

import click
import cloup

from resnet_deploy.commands.options import PRECISION_NAMES, flag, formerly, json_option, number, time
from resnet_deploy.commands.output import show, warn, without_defaults
from resnet_deploy.terminal import triton as text
from resnet_deploy.terminal.progress import Bars


@cloup.command()
@cloup.argument("bundle", metavar="DIR")
@cloup.option_group(
    "What to serve",
    cloup.option("--precision", help=f"One of {PRECISION_NAMES}. [default: fp32]"),
    cloup.option("--platform", help="onnxruntime (the graph) or tensorrt (its plans). [default: onnxruntime]"),
    cloup.option("--device", type=click.Choice(["cpu", "gpu"]), help="Where ONNX Runtime runs the graph. [default: cpu]"),
    cloup.option(
        "--flavour", help="Which plans: tensorrt, or tensorrt-rtx for a Triton backend of your own. [default: tensorrt]"
    ),
    cloup.option("--plan", metavar="NAME", help="One of the bundle's plans, where several would do."),
    cloup.option("--release", help="Check that this Triton release, as 26.09, reads the plan."),
    formerly("--for", "--release"),
)
@cloup.option_group(
    "Batches and instances",
    number("--instances", help="Copies that run at the same time. [default: 1 on CPUs, 2 on GPUs]"),
    number("--threads", help="CPU threads of an instance (onnxruntime). [default: all cores]"),
    number("--max-batch", help="The largest batch to form. [default: the largest that the file was checked for]"),
    time("--max-delay", help="How long a request may wait for others to fill a batch. [default: 500us]"),
    time(
        "--latency-bound",
        help="Choose batch and delay so that 99 % of the requests take no longer, by the bundle's measurements.",
    ),
)
@cloup.option_group(
    "Server",
    cloup.option("--version-policy", help="latest:N, all, or specific:1,3. [default: latest:1]"),
    cloup.option("--warm-up/--no-warm-up", default=None, help="Run every batch size before a version is ready. [default: yes]"),
    cloup.option("--cuda-graphs/--no-cuda-graphs", default=None, help="Run plans as CUDA graphs. [default: yes]"),
    flag("--response-cache", help="Answer equal requests from the server's cache."),
)
@cloup.option_group(
    "Image files and classes",
    cloup.option("--ensemble", type=click.Choice(["jpeg"]), help="Also add a model that takes image files and prepares them."),
    number("--top-k", help="Classes that the ensemble answers with. [default: 5]"),
    cloup.option(
        "--labels", type=click.Path(dir_okay=False), help="A file with the name of a class a line. [default: the bundle's]"
    ),
)
@cloup.option_group(
    "Output",
    cloup.option("-o", "--output", required=True, metavar="REPOSITORY", help="The model repository; made where there is none."),
    cloup.option("--name", help="The model's name. [default: the architecture's]"),
    json_option,
)
def triton(bundle: str, output: str, as_json: bool, **options: Any) -> None:
    """Add a model, or its next version, to a Triton repository.

    Versions are never overwritten, and a server that polls the repository sees one whole or not at all. Exit code 1 when
    --release or --latency-bound does not hold; nothing is written then.

    \b
    Example:
        resnet-deploy triton build/resnet50 -o build/repository --precision int8 --platform tensorrt --release 26.09
        resnet-deploy triton build/resnet50 -o build/repository --ensemble jpeg --latency-bound 15ms
    """
    import resnet_deploy as rd

    with Bars() as bars:
        repository = rd.write_triton(bundle, output, progress=bars, **without_defaults(options))
    show(repository.to_dict(), lambda: text.repository(repository), as_json)
    for warning in repository.warnings:
        warn(warning)
