"""`embed`: a model over many images."""

from __future__ import annotations

from typing import Any

import cloup

from resnet_deploy.commands.options import PRECISION_NAMES, flag, json_option, number, time
from resnet_deploy.commands.output import show, warn, without_defaults
from resnet_deploy.terminal import embed as text
from resnet_deploy.terminal.progress import Bars


@cloup.command()
@cloup.argument("bundle", metavar="DIR")
@cloup.argument("images", metavar="IMAGES")
@cloup.option_group(
    "What to run",
    cloup.option("--backend", default="onnxruntime", show_default=True, help="As in onnxruntime:cuda or openvino:int8."),
    cloup.option("--precision", help=f"{PRECISION_NAMES}. [default: the backend's, or fp32]"),
)
@cloup.option_group(
    "How to run it",
    number("--batch", help="Images at a time. [default: 32]"),
    number("--threads", help="CPU threads of the backend. [default: all cores]"),
    number("--workers", help="Processes that decode images. [default: one for each core]"),
    time("--checkpoint", help="How much work a run that is killed may lose. [default: 30s]"),
)
@cloup.option_group(
    "Bad images",
    number("--max-megapixels", help="List larger images as bad, without reading them. [default: 100]"),
    cloup.option("--strict", is_flag=True, help="Fail at the first bad image."),
)
@cloup.option_group(
    "Ray cluster",
    flag("--ray", help="Run on a Ray cluster (extra `ray`): --ray-address, RAY_ADDRESS, or one started on this machine."),
    cloup.option("--ray-address", metavar="HOST:PORT", help="The address of a running cluster."),
)
@cloup.option_group(
    "Output",
    cloup.option("-o", "--output", required=True, metavar="FILE", help="The Parquet file."),
    cloup.option("--overwrite", is_flag=True, help="Replace an output that another request made."),
    json_option,
)
def embed(bundle: str, images: str, output: str, as_json: bool, **options: Any) -> None:
    """Run a model over many images, and write a Parquet file.

    The file has the path and the answers for each image, in the images' order. IMAGES is a folder, a glob in quotes, or a file
    with a path a line (or, as of `find -print0`, paths that end in NUL). Bad images are listed in FILE's sibling .bad.csv.
    A run that was killed goes on where it was when the command is run again.

    \b
    Example:
        resnet-deploy embed build/resnet50 photos/ -o photos.parquet
        resnet-deploy embed build/resnet50 'photos/**/*.jpg' -o photos.parquet --backend tensorrt:int8 --batch 128
    """
    import resnet_deploy as rd

    with Bars() as bars:
        embedding = rd.embed(bundle, images, output, progress=bars, **without_defaults(options))
    show(embedding.to_dict(), lambda: text.embedded(embedding), as_json)
    for warning in embedding.warnings:
        warn(warning)
    if embedding.bad:
        warn(f"{embedding.bad:,} of {embedding.images:,} images are bad, see {embedding.bad_table}")
