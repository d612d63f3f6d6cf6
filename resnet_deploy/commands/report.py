"""`report`: what a run measured, or what changed from one run to another."""

from __future__ import annotations

import sys
from typing import Any

import cloup

from resnet_deploy.commands.options import json_option
from resnet_deploy.commands.output import attempt, exit_on_failures, say, show, without_defaults
from resnet_deploy.errors import EXIT_INCONCLUSIVE, UsageError
from resnet_deploy.terminal import report as text
from resnet_deploy.terminal.visible import visible


@cloup.command()
@cloup.argument("run", metavar="RUN")
@cloup.argument("other", metavar="[OTHER]", required=False)
@cloup.option_group(
    "Comparison with OTHER",
    cloup.option(
        "--fail-on-regression", metavar="SHARE", help="Exit with 1 where OTHER is slower by more than this, as in 5%."
    ),
    cloup.option(
        "--max-accuracy-drop",
        metavar="POINTS",
        help="Percentage points by which an accuracy may fall, as in 0.5. [default: its 95 % interval]",
    ),
)
@cloup.option_group(
    "Output",
    cloup.option("-o", "--output", metavar="FILE", help="Write the report to this file: .html, .md or .json."),
    json_option,
)
def report(as_json: bool, **options: Any) -> None:
    """Show what a run measured, or compare it with another run.

    A run is a bundle, whose last run it is, or the JSON of `bench`. Between two runs, a row is slower or faster where the 95 %
    interval of the ratio of its medians leaves out 1, the same where that interval lies within SHARE of 1, and inconclusive
    otherwise.

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

    if options["other"] is None:
        if options["fail_on_regression"] is not None or options["max_accuracy_drop"] is not None:
            raise UsageError("a regression is between two runs; give another bundle, or the JSON of another run")
        single, error = attempt(lambda: rd.report(options["run"], output=options["output"]))
        written = options["output"] if error is None else None
        show(thinned(single), lambda: text.report_text(single, written), as_json)
        exit_on_failures([], error=error)
        return
    limits = without_defaults({name: options[name] for name in ("output", "fail_on_regression", "max_accuracy_drop")})
    content, error = attempt(lambda: rd.compare_runs(options["run"], options["other"], **limits))
    written = options["output"] if error is None else None
    show(content.to_dict(), lambda: text.comparison_text(content, written), as_json)
    for doubt in content.inconclusive:
        say(f"INCONCLUSIVE {visible(doubt, lines=False)}", err=True)
    exit_on_failures(content.failures, error=error)
    if content.inconclusive:
        sys.exit(EXIT_INCONCLUSIVE)
