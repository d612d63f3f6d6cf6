"""How many hostile inputs, races, kills and full disks it takes to break something: none may.

python benchmarks/fuzz.py [--seed 0] [--minutes 20] [--json benchmarks/results/fuzz.json]
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from common import Limit, alone, finish

from tests.fuzz import run
from tests.fuzz.cases import KINDS
from tests.fuzz.worker import MEMORY_BYTES

NONE = Limit(bound="at most", value=0)
ASKED = Limit(bound="at least", value=25_000)


def main() -> int:
    options_of = run.parser()
    options_of.add_argument("--json", type=Path, metavar="FILE", help="write the figures and the machine")
    options_of.set_defaults(rounds=1, load_1min=os.getloadavg()[0])
    options = options_of.parse_args()
    results = run.fuzz(options)
    run.show(results)
    tried = sum(tally.tried for tally in results.tallies.values())
    rows = [alone("tried", tried, unit="count", limit=ASKED)]
    rows += [
        alone(kind, sum(tally.kinds[kind] for tally in results.tallies.values()), unit="count", limit=NONE) for kind in KINDS
    ]
    table = {"title": "By target", "columns": run.HEADER, "lines": results.lines()}
    note = (
        f"A case is seeded, has a folder of its own, {options.limit:g} s (more is a hang) and "
        f"{MEMORY_BYTES >> 30} GiB of memory (more is a traceback). lost: something of the user's or of another command's is "
        "gone. believed: something wrong was "
        "accepted. Races are pairs of commands on one bundle at random offsets; kills are SIGKILL at a random moment, after "
        "which the same command must end with the same bytes; full_disk fails one write after another."
    )
    settings = {"seed": options.seed, "minutes": options.minutes, "limit_s": options.limit}
    finish("fuzz", rows, {}, options, **settings, tables=[table], note=note)
    return 1 if results.findings else 0


if __name__ == "__main__":
    sys.exit(main())
