"""`doctor`: which backends run on this machine."""

from __future__ import annotations

import cloup

from resnet_deploy.commands.options import output_options
from resnet_deploy.commands.output import show
from resnet_deploy.terminal.tables import table


@cloup.command()
@output_options
def doctor(as_json: bool) -> None:
    """Try every backend on this machine, and say what the others need.

    \b
    Example:
        resnet-deploy doctor
    """
    import resnet_deploy as rd

    findings = [finding.to_dict() for finding in rd.doctor()]
    show({"backends": findings}, lambda: table(findings), as_json)
