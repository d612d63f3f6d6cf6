"""What is handed over to others, and run over many images: triton, cpp, embed."""

from __future__ import annotations

from typing import Any

import click

from resnet_deploy.commands.options import flag, json_option, number, time
from resnet_deploy.commands.output import given_of, show, warn
from resnet_deploy.terminal import serving as text
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
@number("--max-batch", help="The largest batch to form. [default: the largest that was checked]")
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


@click.command()
@click.argument("bundle", metavar="DIR")
@click.option("-o", "--output", required=True, metavar="PROJECT", help="A new or empty folder.")
@click.option(
    "--backend",
    type=click.Choice(["onnxruntime", "tensorrt", "tensorrt-rtx"]),
    default="onnxruntime",
    show_default=True,
    help="What runs the model: ONNX Runtime on CPUs, or plans that were built.",
)
@click.option("--precision", default="fp32", show_default=True, help="fp32, fp16, bf16, int8 or fp8.")
@json_option
def cpp(bundle: str, output: str, as_json: bool, **given: Any) -> None:
    """Write a CMake project that runs a bundle: a library of one header and one source, and the program classify.

    The program takes raw pixels and needs the runtime alone: no Python, no image library. Before it loads a file, it checks
    the manifest, the file's hash and, of a plan, its version and GPU.

    \b
    Example:
        resnet-deploy cpp build/resnet50 -o build/resnet50-cpp
        resnet-deploy cpp build/resnet50 -o build/resnet50-gpu --backend tensorrt --precision int8
    """
    import resnet_deploy as rd

    project = rd.cpp(bundle, output, **given)
    show(project.to_dict(), lambda: text.project(project), as_json)


@click.command()
@click.argument("bundle", metavar="DIR")
@click.argument("images", metavar="IMAGES")
@click.option("-o", "--output", required=True, metavar="FILE", help="The Parquet file.")
@click.option("--backend", default="onnxruntime", show_default=True, help="What runs, as in onnxruntime:cuda or openvino:int8.")
@click.option("--precision", help="Of the backend: fp32, fp16, bf16, int8, fp8. [default: the backend's, or fp32]")
@number("--batch", help="Images at a time. [default: 32]")
@number("--threads", help="CPU threads of the backend. [default: all cores]")
@number("--workers", help="Processes that decode. [default: all cores]")
@number("--max-megapixels", help="An image of more is listed as bad, unread. [default: 100]")
@time("--checkpoint", "checkpoint_s", help="A kill costs at most so much work. [default: 30s]")
@click.option("--strict", is_flag=True, help="Fail at the first bad image.")
@click.option("--overwrite", is_flag=True, help="Replace an output that another request made.")
@flag("--ray", help="On a Ray cluster (extra `ray`): --ray-address, RAY_ADDRESS, or one started on this machine.")
@click.option("--ray-address", metavar="HOST:PORT", help="Of a cluster that is there.")
@json_option
def embed(bundle: str, images: str, output: str, as_json: bool, **given: Any) -> None:
    """Run the bundle's model over IMAGES, and write path and answers to a Parquet file, in the images' order.

    IMAGES is a folder, a glob in quotes, or a file with a path a line (or, as of `find -print0`, paths that end in NUL). Bad
    images are listed in FILE's sibling .bad.csv. A run that was killed goes on where it was when the command is run again.

    \b
    Example:
        resnet-deploy embed build/resnet50 photos/ -o photos.parquet
        resnet-deploy embed build/resnet50 'photos/**/*.jpg' -o photos.parquet --backend tensorrt:int8 --batch 128
    """
    import resnet_deploy as rd

    with Bars() as bars:
        found = rd.embed(bundle, images, output, progress=bars, **given_of(given))
    show(found.to_dict(), lambda: text.embedded(found), as_json)
    for warning in found.warnings:
        warn(warning)
    if found.bad:
        warn(f"{found.bad:,} of {found.images:,} images are bad, see {found.bad_table}")
