"""What is said of measurements that were made: report."""

from __future__ import annotations

import sys
from typing import Any

import click

from resnet_deploy.commands.options import json_option
from resnet_deploy.commands.output import given_of, judge, show
from resnet_deploy.errors import EXIT_INCONCLUSIVE
from resnet_deploy.terminal import reporting as text


@click.command()
@click.argument("run", metavar="RUN")
@click.argument("other", metavar="[OTHER]", required=False)
@click.option("-o", "--output", metavar="FILE", help="Write it: .html, .md or .json.")
@click.option("--fail-on-regression", metavar="SHARE", help="Exit with 1 where OTHER is slower by more than this, as in 5%.")
@click.option(
    "--max-accuracy-drop", metavar="POINTS", help="How far an accuracy may fall, as in 0.5. [default: its 95 % interval]"
)
@json_option
def report(as_json: bool, **given: Any) -> None:
    """Say what a run found, or what became of it in another; a run is a bundle, or the JSON of `bench`.

    Of a bundle, it is the last run. Between two, a row is slower or faster where the 95 % interval of the ratio of its medians
    leaves out 1, the same where that interval lies within SHARE of 1, and inconclusive otherwise.

    \b
    Exit codes, with --fail-on-regression or --max-accuracy-drop:
        0  no regression
        1  a regression: a row slower by more than SHARE with its whole
           interval; an accuracy, eager's or an agreement that fell beyond its
           interval, or by more than POINTS; a row of RUN that OTHER lacks; a
           gate, a scenario or a backend that fails and did not
        4  none, but a row whose interval has the limit within it, or an
           accuracy that fell by more than a point within its interval or is
           not known: measure again. To pass it in CI: `... || test $? = 4`

    \b
    Example:
        resnet-deploy report build/resnet50 -o report.html
        resnet-deploy report before.json build/resnet50 --fail-on-regression 5%
    """
    import resnet_deploy as rd
    from resnet_deploy.reporting.writing import thinned

    found, written = rd.report(**given_of(given)), given["output"]
    if isinstance(found, dict):
        show(thinned(found), lambda: text.run(found, written), as_json)
        return
    show(found.to_dict(), lambda: text.comparison(found, written), as_json)
    for doubt in found.inconclusive:
        click.echo(f"INCONCLUSIVE {doubt}", err=True)
    judge(found.failures)
    if found.inconclusive:
        sys.exit(EXIT_INCONCLUSIVE)
