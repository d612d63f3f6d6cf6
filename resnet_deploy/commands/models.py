"""`models`: the architectures that there are."""

from __future__ import annotations

import cloup

from resnet_deploy.commands.options import output_options
from resnet_deploy.commands.output import show
from resnet_deploy.terminal import models as text


@cloup.command()
@output_options
def models(as_json: bool) -> None:
    """List the architectures by family, with size, cost and weights.

    Columns are parameters, GMACs, memory, the paper and its error, and published weights. Memory is that of FP32 weights, and
    of the convolutions' outputs for one image.

    \b
    Example:
        resnet-deploy models
    """
    import resnet_deploy as rd

    rows = [row.to_dict() for row in rd.describe_models()]
    show({"models": rows}, lambda: text.models_text(rows), as_json)
