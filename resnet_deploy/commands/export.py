"""`export`: a bundle, and what is added to it."""

from __future__ import annotations

from typing import Any

import cloup

from resnet_deploy import _json
from resnet_deploy.commands.options import json_option, model_options, overwrite_option, precision_options
from resnet_deploy.commands.output import show, warn, without_defaults
from resnet_deploy.commands.program import program
from resnet_deploy.terminal import export as text
from resnet_deploy.terminal.progress import Bars


@cloup.command()
@cloup.argument("architecture", metavar="ARCH|DIR")
@model_options
@precision_options
@cloup.option_group(
    "Output",
    cloup.option("-o", "--output", metavar="DIR", help="The bundle's folder. [default: DIR, which is added to]"),
    overwrite_option,
    json_option,
)
def export(architecture: str, output: str | None, as_json: bool, **options: Any) -> None:
    """Export ARCH to checked ONNX files in a bundle, or add to one.

    The FP32 file is compared with the eager model before it is kept, and files in lower precision are made from it. What a
    bundle holds stays: options that are not given are taken from it, and a request that differs is refused without
    --overwrite.

    \b
    Example:
        resnet-deploy export resnet50 --weights ckpt.pth --input uint8 --head topk:5 -o build/resnet50
        resnet-deploy export resnet50 --weights ckpt.pth --precision fp16,int8 --calibration train/ -o build/resnet50
        resnet-deploy export build/resnet50 --precision bf16
    """
    import resnet_deploy as rd

    running = program()
    running.divide()  # an exporter that aborts when it is interrupted is interrupted
    with Bars(running.at) as bars:
        bundle = rd.export(architecture, output, progress=bars, **without_defaults(options))
    content = _json.plain(bundle.manifest)
    summary = {"bundle": str(bundle.path), "model": content["model"], "artifacts": content["artifacts"]}
    show(summary, lambda: text.exported(bundle), as_json)
    for entry in bundle.manifest.artifacts.values():
        for warning in entry.notes:
            warn(warning)
