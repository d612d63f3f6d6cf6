"""`doctor`: which backends run on this machine."""

from __future__ import annotations

import click

from resnet_deploy.commands.options import json_option
from resnet_deploy.commands.output import show
from resnet_deploy.terminal.tables import table


@click.command()
@json_option
def doctor(as_json: bool) -> None:
    """Try every backend on this machine, and say what is missing for the others.

    \b
    Example:
        resnet-deploy doctor
    """
    import resnet_deploy as rd

    findings = [finding.to_dict() for finding in rd.doctor()]
    show({"backends": findings}, lambda: table(findings), as_json)
