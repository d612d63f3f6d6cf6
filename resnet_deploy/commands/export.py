"""`export`: a bundle, and what is added to it."""

from __future__ import annotations

from typing import Any

import click

from resnet_deploy import _json
from resnet_deploy.commands.options import export_options, json_option, precision_options
from resnet_deploy.commands.output import given_of, show, warn
from resnet_deploy.commands.program import program
from resnet_deploy.terminal import export as text
from resnet_deploy.terminal.progress import Bars


@click.command()
@click.argument("architecture", metavar="ARCH|DIR")
@click.option("-o", "--output", metavar="DIR", help="The bundle's folder. [default: DIR, which is added to]")
@export_options
@precision_options
@json_option
def export(architecture: str, output: str | None, as_json: bool, **given: Any) -> None:
    """Export ARCH to a checked ONNX file in a bundle, and to others in lower precision; or add to the bundle DIR.

    What a bundle holds stays: what is not said is taken from it, and a request that differs is refused without --overwrite.

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
        bundle = rd.export(architecture, output, progress=bars, **given_of(given))
    content = _json.plain(bundle.manifest)
    summary = {"bundle": str(bundle.path), "model": content["model"], "artifacts": content["artifacts"]}
    show(summary, lambda: text.exported(bundle), as_json)
    for entry in bundle.manifest.artifacts.values():
        for warning in entry.notes:
            warn(warning)
