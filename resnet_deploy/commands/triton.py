"""`triton`: a bundle in a Triton model repository."""

from __future__ import annotations

from typing import Any

import click

from resnet_deploy.commands.options import json_option, number, time
from resnet_deploy.commands.output import given_of, show, warn
from resnet_deploy.terminal import triton as text
from resnet_deploy.terminal.progress import Bars


@click.command()
@click.argument("bundle", metavar="DIR")
@click.option("-o", "--output", required=True, metavar="REPOSITORY", help="The model repository; made where there is none.")
@click.option("--precision", help="Of fp32, fp16, bf16, int8, fp8: the one to serve. [default: fp32]")
@click.option("--platform", help="onnxruntime (the graph) or tensorrt (its plans). [default: onnxruntime]")
@click.option("--device", type=click.Choice(["cpu", "gpu"]), help="Of onnxruntime. [default: cpu]")
@click.option("--flavour", help="Whose plans: tensorrt, or tensorrt-rtx for a backend of your own. [default: tensorrt]")
@click.option("--plan", metavar="NAME", help="One of the bundle's plans, where several would do.")
@click.option("--for", "server", metavar="RELEASE", help="Check that this Triton release, as 26.09, reads the plan.")
@click.option("--name", help="Of the model. [default: the architecture's]")
@number("--instances", help="Copies that run at the same time. [default: 1 on CPUs, 2 on GPUs]")
@number("--threads", help="CPU threads of an instance (onnxruntime). [default: all cores]")
@number("--max-batch", help="The largest batch to form. [default: the largest that is proven]")
@time("--max-delay", "max_delay_s", help="That a request waits for others. [default: 500us]")
@time(
    "--latency-bound", "latency_bound_s",
    help="Choose batch and delay so that 99 % of the requests take no longer, as the bundle was measured.",
)  # fmt: skip
@click.option("--version-policy", help="latest:N, all, or specific:1,3. [default: latest:1]")
@click.option("--warm-up/--no-warm-up", default=None, help="Run real shapes before a version is ready. [default: yes]")
@click.option("--cuda-graphs/--no-cuda-graphs", default=None, help="Of plans. [default: yes]")
@click.option("--response-cache", is_flag=True, default=None, help="Answer equal requests from the server's cache.")
@click.option("--labels", type=click.Path(dir_okay=False), help="Names of the classes, one a line. [default: the bundle's]")
@click.option("--ensemble", type=click.Choice(["jpeg"]), help="Also a model that takes image files and prepares them.")
@number("--top-k", help="Classes that the ensemble answers with. [default: 5]")
@json_option
def triton(bundle: str, output: str, as_json: bool, **given: Any) -> None:
    """Add a bundle's model to a Triton model repository, or its next version where the model is there.

    Versions are never overwritten, and a server that polls the repository sees one whole or not at all. Exit code 1 when
    --for or --latency-bound does not hold; nothing is written then.

    \b
    Example:
        resnet-deploy triton build/resnet50 -o build/repository --precision int8 --platform tensorrt --for 26.09
        resnet-deploy triton build/resnet50 -o build/repository --ensemble jpeg --latency-bound 15ms
    """
    import resnet_deploy as rd

    with Bars() as bars:
        found = rd.triton(bundle, output, progress=bars, **given_of(given))
    show(found.to_dict(), lambda: text.repository(found), as_json)
    for warning in found.warnings:
        warn(warning)
