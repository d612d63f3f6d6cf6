"""`models`: the architectures that there are."""

from __future__ import annotations

import click

from resnet_deploy.commands.options import json_option
from resnet_deploy.commands.output import show
from resnet_deploy.terminal import models as text


@click.command()
@json_option
def models(as_json: bool) -> None:
    """List the architectures by family: parameters, GMACs, memory, paper, its error, published weights.

    Memory is that of FP32 weights, and of what the convolutions put out for one image.

    \b
    Example:
        resnet-deploy models
    """
    from resnet_deploy.models.catalogue import catalogue

    rows = catalogue()
    show({"models": rows}, lambda: text.models(rows), as_json)
