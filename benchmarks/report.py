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
    "peers": "Every network beside its peers",
    "startup": "How soon the command line answers",
    "export": "What a checked export costs (ResNet-50)",
    "bench": "How long `bench` takes (ResNet-50)",
    "harness": "What our harness adds to what it measures",
    "profiles": "Whether profiles agree with the time without a profiler (ResNet-50)",
    "architectures": "A thousand layers, and eager speed",
    "quantization": "What INT8 costs in accuracy, by calibration method",
    "corrections": "What clipping, bias correction, equalization and `tune` change in INT8",
    "calibration": "What calibrating costs (ResNet-50)",
    "int8_speed": "INT8 on the CPU (ResNet-50)",
    "embed": "A million images: what `embed` reaches of its parts, its memory, and SIGKILL",
    "cpp": "What an inference takes in C++ and in Python",
    "engines": "What building a plan costs over the builder alone (ResNet-50)",
    "triton_server": "What a Triton server adds to ONNX Runtime (ResNet-50, CPU)",
    "reporting": "What a report of 50 results costs",
    "fuzz": "Hostile inputs, races, kills and full disks",
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


def gpu_page(results: Mapping[str, Mapping[str, Any]], backends: Mapping[str, Any]) -> str:
    """The page of benchmarks/gpu.sh: one table a network; what did not work, in its own words."""
    gpus = ", ".join(gpu["name"] for gpu in backends["machine"]["gpus"]) or "no GPU"
    lines = [f"# On a GPU: {gpus}", "", f"{machine_line(backends['machine'])}.", ""]
    lines += ["Left out:", "", *(f"- `{name}`: {said}" for name, said in backends["left_out"].items()), ""]
    for name, result in results.items():
        lines += [f"## {name}", ""]
        if "rows" in result:
            lines += [*table(result["rows"]), ""]
            lines += [line for own in result["settings"].get("tables", []) for line in _own(own)]
            continue
        if "error" in result:
            lines += [result["error"], ""]
            continue
        columns = ("backend", "precision", "batch", "p50 ms", "device ms", "images/s", "cosine min", "top-1 agreement", "gate")
        lines += aligned([columns, *map(_gpu_cells, result["results"])])
        found = {**result["judged"], **{name: f"{t['ours_s'] / t['bare_s']:.3f}" for name, t in result["bare_loop"].items()}}
        lost = [f"- {r['backend']} ({r['precision']}), batch {r['batch']}: {r['error']}" for r in result["unmeasured"]]
        lines += ["", *(f"- {what}: {value}" for what, value in found.items()), *lost, ""]
    return "\n".join([*lines, "```sh", "OUT=benchmarks/results/gpu benchmarks/gpu.sh", "```", ""])


def _gpu_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    parity, agreement = row["parity"], row["parity"]["top1_agreement"]
    return (
        f"{row['backend']} ({row['device']})", row["precision"], str(row["batch"]), f"{row['latency_s']['p50'] * 1e3:.3f}",
        f"{row['device_latency_s']['p50'] * 1e3:.3f}", f"{row['images_per_s']:,.0f}", f"{parity['cosine_min']:.5f}",
        "–" if agreement is None else f"{agreement:.2%}", row["gate"],
    )  # fmt: skip


def read(folder: Path) -> dict[str, Any]:
    """The results in a folder by name."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}


def main() -> None:
    target = HERE / "README.md"
    target.write_text(page(read(HERE / "results")))
    print(target)
    if found := read(HERE / "results" / "gpu"):
        backends = found.pop("backends")
        (HERE / "GPU.md").write_text(gpu_page({n: r for n, r in found.items() if r.get("benchmark")}, backends))
        print(HERE / "GPU.md")


if __name__ == "__main__":
    main()
