"""Write benchmarks/README.md from the figures in benchmarks/results/.

python benchmarks/report.py
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import aligned, machine_line, table

HERE = Path(__file__).parent
TITLES = {
    "startup": "How soon the command line answers",
    "export": "What a checked export costs (ResNet-50)",
    "harness": "What our harness adds to what it measures",
    "architectures": "A thousand layers, and eager speed",
    "quantization": "What INT8 costs in accuracy, by calibration method",
    "corrections": "What clipping, bias correction, equalization and `tune` change in INT8",
    "calibration": "What calibrating costs (ResNet-50)",
    "int8_speed": "INT8 on the CPU (ResNet-50)",
    "degradation": "The degradation experiment: deeper plain networks train worse, deeper residual ones do not",
}
INTRODUCTION = """\
# Benchmarks

Each compares this package with a peer in the same run, the two taking turns. `ours` and `peer` are medians; a ratio is
ours over the peer's, taken round by round (a speed-up: the peer's over ours). `ratio` is the median of the rounds, and
half of them lie in the `middle half`. The limits were set before the figures were taken. This page is written by
`python benchmarks/report.py` from [results](results), where the samples are.
"""


def page(results: Mapping[str, Mapping[str, Any]]) -> str:
    """The page of results by name: the known ones in their order, others after them."""
    names = [name for name in TITLES if name in results] + sorted(set(results) - set(TITLES))
    return "\n".join([INTRODUCTION, *(_section(name, results[name]) for name in names)])


def _section(name: str, result: Mapping[str, Any]) -> str:
    command = f"python benchmarks/{name}.py --json benchmarks/results/{name}.json"
    if (plotted := HERE / "results" / f"{name}.svg").is_file():
        command += f" --plot benchmarks/results/{plotted.name}"
    lines = [
        f"## {TITLES.get(name, name)}", "", *table(result["rows"]), "",
        *(line for own in result["settings"].get("tables", []) for line in _own(own)),
        *([result["settings"]["note"], ""] if "note" in result["settings"] else []),
        f"Measured {result['measured'][:10]} on {machine_line(result['machine'])}.", "", "```sh", command, "```", "",
    ]  # fmt: skip
    if plotted.is_file():
        lines += [f"![{TITLES.get(name, name)}](results/{plotted.name})", ""]
    return "\n".join(lines)


def _own(own: Mapping[str, Any]) -> list[str]:
    """A table that a benchmark made itself: its title, columns and lines of text."""
    return [f"**{own['title']}**", "", *aligned([own["columns"], *own["lines"]]), ""]


def read(folder: Path) -> dict[str, Any]:
    """The results in a folder by name."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}


def main() -> None:
    target = HERE / "README.md"
    target.write_text(page(read(HERE / "results")))
    print(target)


if __name__ == "__main__":
    main()
