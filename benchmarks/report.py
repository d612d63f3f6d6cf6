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
    on_gpu = "\n".join(gpu_section(read(HERE / "results" / "gpu")))
    return "\n".join([INTRODUCTION, *(_section(name, results[name]) for name in names), on_gpu])


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


def gpu_section(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What benchmarks/gpu.sh left in results/gpu: its roof, its peers, and one table a network; what did not work, in its own
    words. Raises ValueError for a run on the fake device, whose times mean nothing."""
    lines = ["## On a GPU", ""]
    measured = {name: results[name] for name in ("roof", "networks", "peers", "sustained") if name in results}
    if not measured:
        return [*lines, "Not measured yet: `make gpu` does, on a machine that has one.", ""]
    gpus = [gpu["name"] for result in measured.values() for gpu in result["machine"]["gpus"]]
    if not gpus or any("no timing means anything" in name for name in gpus):
        raise ValueError(f"results/gpu is of no GPU: {', '.join(gpus) or 'none was found'}")
    machine = machine_line(next(iter(measured.values()))["machine"])
    lines += [f"Measured on {gpus[0]}, {machine}.", "", "```sh", "make gpu", "```", ""]
    for name, result in measured.items():
        if "rows" in result:
            lines += [f"### {name}", "", *table(result["rows"]), ""]
            lines += [line for own in result["settings"].get("tables", []) for line in _own(own)]
        for network, found in result.get("networks", {}).items():
            lines += [f"### {network}", "", *_network(found)]
    return lines


def _network(found: Mapping[str, Any]) -> list[str]:
    """A network's rows, its limits, and what was left out."""
    rows = [row for batch in found["batches"].values() for row in batch["results"]]
    columns = ("backend", "precision", "batch", "p50 ms", "device ms", "images/s", "without a pause", "cosine min",
               "top-1 agreement", "gate")  # fmt: skip
    limits = {**found.get("judged", {})} | {
        name: f"{times['ours_s'] / times['bare_s']:.3f} of a bare loop" for name, times in found.get("bare_loop", {}).items()
    }
    failed = [row for batch in found["batches"].values() for row in batch["unmeasured"]]
    lost = [f"{row['backend']} ({row['precision']}), batch {row['batch']}: {row['error']}" for row in failed]
    lost += [f"{name}: {why}" for name, why in found.get("left_out", {}).items()] + [
        found[name] for name in ("error",) if name in found
    ]
    listed = [f"- {what}: {value}" for what, value in limits.items()] + [f"- {line}" for line in lost]
    return [*(aligned([columns, *map(_gpu_cells, rows)]) if rows else []), "", *listed, *([""] if listed else [])]


def _gpu_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    parity, agreement = row["parity"], row["parity"]["top1_agreement"]
    return (
        f"{row['backend']} ({row['device']})", row["precision"], str(row["batch"]), f"{row['latency_s']['p50'] * 1e3:.3f}",
        f"{row['device_latency_s']['p50'] * 1e3:.3f}", f"{row['images_per_s']:,.0f}",
        f"{row['sustained']['images_per_s']:,.0f}" if row.get("sustained") else "–", f"{parity['cosine_min']:.5f}",
        "–" if agreement is None else f"{agreement:.2%}", row["gate"],
    )  # fmt: skip


def read(folder: Path) -> dict[str, Any]:
    """The results in a folder by name."""
    return {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}


def main() -> None:
    target = HERE / "README.md"
    target.write_text(page(read(HERE / "results")))
    print(target)


if __name__ == "__main__":
    main()
