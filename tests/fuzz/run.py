"""Run the fuzzers: cases for so many minutes, then the campaigns of processes; a table, and one line for each finding.

    python -m tests.fuzz.run --seed 0 --minutes 20
    python -m tests.fuzz.run --target manifests --cases 500
    python -m tests.fuzz.run --case manifests:12345

Exit code 1 where anything was found.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.fuzz.bundles import ENVIRONMENT
from tests.fuzz.cases import KINDS, PACKAGE, Outcome, discover, numbered
from tests.fuzz.pool import LIMIT_S, ROOT, Pool

HEADER = ("target", "tried", *KINDS)
MANY = 1_000_000_000
# A process that forks must have one thread: none of OpenMP's, OpenBLAS's and jemalloc's.
SINGLE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "JE_ARROW_MALLOC_CONF": "background_thread:false"}


@dataclass
class Tally:
    """What came of a target's cases."""

    tried: int = 0
    seconds: float = 0.0
    peak_bytes: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    notes: Counter[str] = field(default_factory=Counter)


@dataclass
class Results:
    """What came of a run. findings: by signature, the first outcome and the numbers of all."""

    package: str = PACKAGE
    tallies: dict[str, Tally] = field(default_factory=dict)
    findings: dict[str, tuple[Outcome, list[int]]] = field(default_factory=dict)

    def add(self, outcome: Outcome, peak_bytes: int = 0) -> None:
        tally = self.tallies.setdefault(outcome.target, Tally())
        tally.tried += 1
        tally.seconds += outcome.seconds
        tally.peak_bytes = max(tally.peak_bytes, peak_bytes)
        if outcome.note:
            tally.notes[outcome.note] += 1
        if outcome.kind is None:
            return
        tally.kinds[outcome.kind] += 1
        if outcome.signature not in self.findings:
            self.findings[outcome.signature] = (outcome, [])
            print(self.line(outcome), flush=True)
        self.findings[outcome.signature][1].append(outcome.number)

    def line(self, outcome: Outcome) -> str:
        package = "" if self.package == PACKAGE else f" --package {self.package}"
        placed = outcome.where.startswith(f"{outcome.text.split(':')[0]} in ")
        what = f"{outcome.text} ({outcome.where})" if placed else outcome.text
        repeat = f"python -m tests.fuzz.run{package} --case {outcome.target}:{outcome.number}"
        return f"{outcome.kind}: {outcome.target}: {what}: {repeat}"

    def lines(self) -> list[tuple[str, ...]]:
        """The table's lines as text: a target each, then their sum."""
        found = [(name, tally) for name, tally in self.tallies.items()]
        total = Tally(tried=sum(t.tried for _, t in found), kinds=sum((t.kinds for _, t in found), Counter()))
        return [
            (name, f"{tally.tried:,}", *(f"{tally.kinds[kind]:,}" for kind in KINDS))
            for name, tally in [*found, ("all", total)]
        ]


def parser() -> argparse.ArgumentParser:
    """The options, for `benchmarks/fuzz.py` too."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--minutes", type=float, default=20, help="of cases in all, shared equally (default 20)")
    made.add_argument("--target", action="append", help="only this; may be repeated")
    made.add_argument("--cases", type=int, default=MANY, help="at most so many of each target (default: as time allows)")
    made.add_argument("--races", type=int, default=200, help="pairs of commands at once (default 200)")
    made.add_argument("--kills", type=int, default=200, help="commands that are killed (default 200)")
    made.add_argument("--case", action="append", metavar="TARGET:NUMBER", help="repeat one case; may be repeated")
    made.add_argument("--limit", type=float, default=LIMIT_S, help="seconds of a case; more is a hang (default 5)")
    made.add_argument("--package", default=PACKAGE, help="where the targets are")
    made.add_argument("--findings", type=Path, metavar="FILE", help="write all findings as JSON, with every case's number")
    return made


def fuzz(options: argparse.Namespace) -> Results:
    """Run what the options ask for, and print findings as they come."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # `timeout` leaves nothing behind either
    targets = discover(options.package)
    repeated = [(name, int(number)) for name, _, number in (text.rpartition(":") for text in options.case or [])]
    chosen = options.target or list(dict.fromkeys(name for name, _ in repeated)) or list(targets)
    if unknown := [name for name in chosen if name not in targets]:
        raise SystemExit(f"unknown target {', '.join(unknown)}; there are {', '.join(targets)}")
    results = Results(package=options.package)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as work:
        os.environ[ENVIRONMENT] = work
        pool = Pool(Path(work), options.package, options.limit)
        try:
            if repeated:
                _repeat(repeated, targets, pool, results)
            else:
                cases = [name for name in chosen if hasattr(targets[name], "run")]
                _cases(cases, options, pool, results)
        finally:
            pool.close()
        for name in [] if repeated else [name for name in chosen if hasattr(targets[name], "campaign")]:
            count = {"races": options.races, "kills": options.kills}.get(name, options.cases)
            for outcome in _campaign(name, options.seed, 0, count, results):
                results.add(outcome)
    return results


def _cases(names: Sequence[str], options: argparse.Namespace, pool: Pool, results: Results) -> None:
    """Whose turn it is: the target that had the least time."""
    spent, done = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)
    while sum(spent.values()) < options.minutes * 60 and (left := [name for name in names if done[name] < options.cases]):
        name = min(left, key=lambda item: (spent[item], item))
        start = time.monotonic()
        results.add(*pool.run(name, numbered(options.seed, done[name])))
        # What is made once takes neither a target's turn nor the run's minutes.
        spent[name] += min(time.monotonic() - start, 2 * options.limit)
        done[name] += 1


def _repeat(repeated: Sequence[tuple[str, int]], targets: dict[str, ModuleType], pool: Pool, results: Results) -> None:
    for name, number in repeated:
        if hasattr(targets[name], "campaign"):
            for outcome in _campaign(name, number // 1_000_000, number % 1_000_000, 1, results):
                results.add(outcome)
        else:
            results.add(*pool.run(name, number))


def _campaign(name: str, seed: int, first: int, count: int, results: Results) -> Iterator[Outcome]:
    """A campaign forks, so it has a process of its own without threads."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | SINGLE
    command = [sys.executable, "-m", "tests.fuzz.processes", results.package, name, str(seed), str(first), str(count)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield Outcome(**json.loads(line))
    if process.returncode:
        text = f"the campaign itself ended with {process.returncode}"
        yield Outcome(target=name, number=numbered(seed, first), kind="crashes", where=text, text=text)


def show(results: Results) -> None:
    """The table, what was answered otherwise, and each finding once."""
    cells = [HEADER, *results.lines()]
    widths = [max(len(line[column]) for line in cells) for column in range(len(HEADER))]
    for number, line in enumerate(cells):
        print("| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |")
        if number == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")
    for name, tally in results.tallies.items():
        about = [f"{tally.seconds / max(1, tally.tried) * 1e3:.0f} ms a case", f"peak {tally.peak_bytes / 1e6:.0f} MB"]
        print(f"{name}: {', '.join(about + [f'{count} {note}' for note, count in tally.notes.items()])}")
    if results.findings:
        print(f"\n{len(results.findings)} different findings:")
    for outcome, numbers in sorted(results.findings.values(), key=lambda item: -len(item[1])):
        print(f"{len(numbers)} times {results.line(outcome)}")


def findings(results: Results) -> list[dict[str, Any]]:
    """All findings as JSON has them."""
    return [outcome.to_dict() | {"numbers": numbers} for outcome, numbers in results.findings.values()]


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    results = fuzz(options)
    show(results)
    if options.findings is not None:
        options.findings.write_text(json.dumps(findings(results), indent=1) + "\n")
    return 1 if results.findings else 0


if __name__ == "__main__":
    sys.exit(main())
