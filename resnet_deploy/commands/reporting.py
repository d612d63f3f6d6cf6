"""What is said of measurements that were made: report."""

from __future__ import annotations

from typing import Any

import click

from resnet_deploy.commands.options import json_option
from resnet_deploy.commands.output import attempt, given_of, judge, show
from resnet_deploy.terminal import reporting as text


@click.command()
@click.argument("run", metavar="RUN")
@click.argument("other", metavar="[OTHER]", required=False)
@click.option("-o", "--output", metavar="FILE", help="Write it: .html, .md or .json.")
@click.option("--fail-on-regression", metavar="SHARE", help="Exit with 1 where OTHER is slower by more than this, as in 5%.")
@json_option
def report(as_json: bool, **given: Any) -> None:
    """Say what a run found, or what became of it in another; a run is a bundle, or the JSON of `bench`.

    Of a bundle, it is the last run. Between two, a row is slower or faster where the change is beyond the noise of both: where
    the 95 % interval of the ratio of their medians leaves out 1. With --fail-on-regression, exit code 1 also means that a gate
    or a scenario fails that did not, or a backend.

    \b
    Example:
        resnet-deploy report build/resnet50 -o report.html
        resnet-deploy report before.json build/resnet50 --fail-on-regression 5%
    """
    import resnet_deploy as rd
    from resnet_deploy.reporting.writing import thinned

    content, error = attempt(lambda: rd.report(**given_of(given)))
    written = given["output"] if error is None else None
    if isinstance(content, dict):
        show(thinned(content), lambda: text.run(content, written), as_json)
        judge([], error=error)
        return
    show(content.to_dict(), lambda: text.comparison(content, written), as_json)
    judge(content.failures, error=error)
