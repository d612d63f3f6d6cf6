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

    RUN and OTHER are bundles, of which the last run counts, or JSON files of `bench`. A row is one backend at one batch size.
    The ratio of its two median latencies has a 95 % interval. Where 1 is outside of it, the row is slower or faster; where the
    whole interval is within SHARE of 1, the row is the same; otherwise it is inconclusive.

    \b
    Exit codes, with --fail-on-regression or --max-accuracy-drop:
        0  no regression
        1  a regression: a row that is slower by more than SHARE, by its whole
           interval; an accuracy (eager's too), or an agreement with eager,
           that fell by more than POINTS or its interval; a row that is in RUN
           alone; a gate, a scenario or a backend that fails in OTHER alone
        4  no regression for certain: the limit is within a row's interval; an
           accuracy fell by more than a point, but within its interval, or is
           not known. Measure again. To pass it in CI: `... || test $? = 4`

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
