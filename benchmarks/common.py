"""What the benchmarks share: fresh processes, ratios with their spread, tables, JSON.

Standard library alone: until a new process executes its program, Linux counts the memory of the one that started it.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import statistics
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from resnet_deploy._machine import describe_machine

HEADER = ("what", "ours", "peer", "ratio", "middle half", "rounds", "limit", "met")


@dataclass(frozen=True, kw_only=True)
class Limit:
    """On a row's ratio, or on its value where it has no peer. bound: at most, at least, or within (of 1, to both sides)."""

    bound: str
    value: float

    def holds(self, found: float) -> bool:
        if self.bound == "within":
            return abs(found - 1) <= self.value
        return found <= self.value if self.bound == "at most" else found >= self.value


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Of what was taken in the same round: median, quartiles, extremes, and how many rounds there were."""

    median: float
    q1: float
    q3: float
    low: float
    high: float
    rounds: int

    @classmethod
    def of(cls, above: Sequence[float], below: Sequence[float]) -> Ratio:
        ratios = [a / b for a, b in zip(above, below, strict=True)]
        q1, median, q3 = statistics.quantiles(ratios, n=4, method="inclusive") if len(ratios) > 1 else ratios * 3
        return cls(median=median, q1=q1, q3=q3, low=min(ratios), high=max(ratios), rounds=len(ratios))


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table. ours, peer: medians, in `unit` (s, bytes, fraction or count). met: None where there is no limit."""

    what: str
    unit: str
    ours: float
    peer: float | None = None
    ratio: Ratio | None = None
    limit: Limit | None = None
    met: bool | None = None


def compare(
    what: str,
    ours: Sequence[float],
    peer: Sequence[float],
    *,
    unit: str = "s",
    limit: Limit | None = None,
    speedup: bool = False,
) -> Row:
    """Two lists taken round by round. The ratio is ours over the peer's; the other way round where it is a speed-up."""
    ratio = Ratio.of(peer, ours) if speedup else Ratio.of(ours, peer)
    return Row(
        what=what, unit=unit, ours=statistics.median(ours), peer=statistics.median(peer), ratio=ratio, limit=limit,
        met=None if limit is None else limit.holds(ratio.median),
    )  # fmt: skip


def alone(what: str, ours: float, *, unit: str, limit: Limit | None = None) -> Row:
    """A value without a peer."""
    return Row(what=what, unit=unit, ours=ours, limit=limit, met=None if limit is None else limit.holds(ours))


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A process that has ended: seconds from its start to its end, peak resident memory, what it printed."""

    wall_s: float
    peak_bytes: int
    stdout: str
    stderr: str


def fresh(command: Sequence[str]) -> Finished:
    """Run a command in a process of its own. Raises RuntimeError, with the end of what it said, where it fails."""
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr)
        _, status, usage = os.wait4(process.pid, 0)  # the only way to the peak of one child alone
        wall_s = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        said = []
        for file in (stdout, stderr):
            file.seek(0)
            said.append(file.read())
    if process.returncode:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}: {said[1][-2000:]}")
    unit_bytes = 1 if os.uname().sysname == "Darwin" else 1024
    return Finished(wall_s=wall_s, peak_bytes=usage.ru_maxrss * unit_bytes, stdout=said[0], stderr=said[1])


def parser(about: str | None, rounds: int) -> argparse.ArgumentParser:
    """The options of every benchmark: --rounds and --json."""
    made = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--rounds", type=int, default=rounds, help=f"rounds of ours and the peer in turn (default {rounds})")
    made.add_argument("--json", type=Path, metavar="FILE", help="write the figures, the machine and the samples")
    made.set_defaults(load_1min=os.getloadavg()[0])  # before the benchmark itself is the load
    return made


def arguments(about: str | None, rounds: int) -> argparse.Namespace:
    return parser(about, rounds).parse_args()


def finish(
    name: str,
    rows: Sequence[Row],
    samples: Mapping[str, Sequence[float]],
    options: argparse.Namespace,
    *,
    quiet: bool = False,
    **settings: Any,
) -> None:
    """Print the table and the machine; write everything as JSON where a file was asked for. quiet: write alone."""
    result: dict[str, Any] = {
        "benchmark": name,
        "measured": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "settings": {"rounds": options.rounds, **settings},
        "machine": describe_machine() | {"load_1min": options.load_1min},
        "rows": [asdict(row) for row in rows],
        "samples": {key: [float(f"{value:.6g}") for value in values] for key, values in samples.items()},
    }
    if not quiet:
        print("\n".join(table(result["rows"])))
        print(f"\n{machine_line(result['machine'])}")
    if options.json is not None:
        write_json(options.json, result)


def write_json(path: Path, result: Mapping[str, Any]) -> None:
    """Write a file whole or not at all: a run that is cut off leaves the rows that it had."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result, indent=1)
    # A list of numbers is one line, not one line a number.
    text = re.sub(r"\[[\d\s.,e+-]+\]", lambda found: f"[{' '.join(found[0][1:-1].split())}]", text)
    partial = path.with_suffix(".partial")
    partial.write_text(text + "\n")
    partial.replace(path)


def machine_line(machine: Mapping[str, Any]) -> str:
    """The machine and the versions, on one line."""
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    memory = f"{machine['memory_bytes'] / 2**30:.0f} GiB" if machine["memory_bytes"] else "memory unknown"
    load = "" if machine["load_1min"] is None else f", load {machine['load_1min']:.1f} before"
    return f"{machine['cpu']}, {machine['cores']} cores, {memory}{load}; Python {machine['python']}, {packages}"


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Rows, as JSON has them, as the lines of a Markdown table that reads well as plain text too."""
    return aligned([HEADER, *(_cells(row) for row in rows)])


def aligned(cells: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table of a header and lines of text."""
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = ["| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |" for line in cells]
    return [lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]]


def _cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    ratio, unit = row["ratio"], row["unit"]
    return (
        row["what"],
        quantity(row["ours"], unit),
        "–" if row["peer"] is None else quantity(row["peer"], unit),
        _ratio(ratio["median"]) if ratio else "–",
        f"{_ratio(ratio['q1'])}–{_ratio(ratio['q3'])}" if ratio else "–",
        str(ratio["rounds"]) if ratio else "–",
        _limit(row),
        {True: "yes", False: "**no**", None: "–"}[row["met"]],
    )


def _ratio(value: float) -> str:
    return f"{value:.3f}" if abs(value) >= 0.1 else f"{value:.1g}"


def _limit(row: Mapping[str, Any]) -> str:
    limit = row["limit"]
    if limit is None:
        return "–"
    if limit["bound"] == "within":
        return f"within {limit['value']:.0%}"
    value = f"{limit['value']:g}×" if row["ratio"] else quantity(limit["value"], row["unit"])
    return f"{limit['bound']} {value}"


def quantity(value: float, unit: str) -> str:
    """Three digits and a unit that fits: 0.0812 s → 81.2 ms."""
    if unit == "count":
        return f"{value:.0f}"
    if unit == "fraction":
        return f"{value:.2%}"
    if unit == "bytes":
        return f"{value / 1e9:.2f} GB" if value >= 1e7 else f"{value / 1e6:.2f} MB"
    for size, name in ((1.0, "s"), (1e-3, "ms")):
        if value >= size:
            return f"{_three_digits(value / size)} {name}"
    return f"{_three_digits(value * 1e6)} µs"


def _three_digits(value: float) -> str:
    return f"{value:.{max(0, 2 - len(str(int(value))) + 1)}f}"
