"""`embed`: a model over many images."""

from __future__ import annotations

from typing import Any

import click

from resnet_deploy.commands.options import flag, json_option, number, time
from resnet_deploy.commands.output import given_of, show, warn
from resnet_deploy.terminal import embed as text
from resnet_deploy.terminal.progress import Bars


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
