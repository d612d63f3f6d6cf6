"""What a report of 50 results costs: the time to make it, its size, and the time until a browser shows it.

    python benchmarks/reporting.py [--json benchmarks/results/reporting.json]

The run is of 50 rows with raw samples, conditions and rooflines, and ten profiles of 60 layers. A round is: a new process that
reads it from JSON and writes the page, as `resnet-deploy report RUN -o FILE` does; then one in which matplotlib draws two of
its eight charts as SVG, the peer. Chromium, where there is one, opens the page from the disk and prints its DOM once the
script has run.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from common import Limit, Row, alone, arguments, compare, finish, fresh

BATCHES = (1, 4, 8, 16, 32)
BACKENDS = ("eager", "eager:channels_last", "onnxruntime", "openvino", "tensorrt")
PRECISIONS = ("fp32", "int8")
RENDER = Limit(bound="at most", value=3.0)
SIZE = Limit(bound="at most", value=2e6)
OURS = "import sys; from resnet_deploy.cli import main; main(['report', sys.argv[1], '-o', sys.argv[2]])"
PEER = """
import json, sys, matplotlib
matplotlib.use("svg")
import matplotlib.pyplot as plt
report = json.load(open(sys.argv[1]))
lines = {}
for one in report["results"]:
    lines.setdefault((one["backend"], one["precision"]), []).append(one)
curve, spread = plt.figure().subplots(), plt.figure(figsize=(8, 12)).subplots()
for name, rows in lines.items():
    p50 = [row["latency_s"]["p50"] for row in rows]
    curve.loglog(p50, [row["batch"] / s for row, s in zip(rows, p50)], marker="o", label=" ".join(name))
curve.legend()
spread.boxplot([entry["host_s"] for entry in report["samples"].values()], vert=False)
for number, axes in enumerate((curve, spread)):
    axes.figure.savefig(f"{sys.argv[2]}.{number}.svg")
"""


def latency(p50: float) -> dict[str, float]:
    return {"p50": p50, "p90": 1.03 * p50, "p99": 1.1 * p50, "mean": 1.01 * p50, "iqr": 0.03 * p50}


def result(backend: str, precision: str, batch: int, p50: float) -> dict[str, Any]:
    cosine = 1.0 if precision == "fp32" else 0.9996
    state = {"sm_clock_hz": 1.98e9, "power_w": 512.0, "temperature_c": 58.0, "memory_used_bytes": 2.1e9}
    spread = {name: {"min": 0.9 * value, "median": value, "max": value} for name, value in state.items()}
    return {
        "backend": backend, "device": "cuda", "precision": precision, "batch": batch, "latency_s": latency(p50),
        "device_latency_s": latency(0.8 * p50), "images_per_s": batch / p50, "speedup": 2.0, "samples": 600, "noisy": False,
        "warm": True, "gate": "pass", "failures": [], "threads": 32, "measured": "2026-11-20T10:00:00+00:00",
        "parity_data": "val/", "parity": {
            "images": 5000, "max_abs_error": 0.01, "cosine_mean": cosine, "cosine_min": cosine - 1e-4, "top1_agreement": 0.99,
            "top1_accuracy": 0.80, "reference_top1_accuracy": 0.803, "accuracy_difference": -0.003,
            "accuracy_difference_low": -0.006, "accuracy_difference_high": 0.0,
        },
        **{f"{part}_latency_s": latency(share * p50) for part, share in (("h2d", 0.1), ("compute", 0.8), ("d2h", 0.02))},
        "throughput_images_per_s": 1.2 * batch / p50, "settings": {"cuda_graph": True, "streams": 1},
        "conditions": {"duration_s": 3.0, "cpu": {"own_cores": 1.0, "other_cores": 0.1}, "warnings": [],
                       "gpu": {"before": state, "during": spread, "after": state, "throttled": {}}},
        "roofline": {"device": "a GPU", "source": "its datasheet", "bound": "memory", "compute_s": 4e-6, "memory_s": 6e-6,
                     "device_images_per_s": 1.4e5, "host_images_per_s": 4e5, "reached_percent": 100 * batch / p50 / 1.4e5},
    }  # fmt: skip


def example() -> dict[str, Any]:
    """A run of 50 rows."""
    draw, results, samples = random.Random(1), [], {}
    for batch in BATCHES:
        for number, backend in enumerate(BACKENDS):
            for precision in PRECISIONS:
                p50 = 1e-3 * batch / (1 + number) / (2 if precision == "int8" else 1) + 1e-4
                results.append(result(backend, precision, batch, p50))
                values = [p50 * (1 + 0.02 * abs(draw.gauss(0, 1))) for _ in range(600)]
                samples[f"{backend}|cuda|{precision}|{batch}"] = {"host_s": values}
    layers = [{"name": f"layer{1 + n // 15}.{n % 15}.conv + relu", "kind": "convolution", "precision": "int8",
               "time_s": draw.random() * 1e-4, "share": 1 / 60} for n in range(60)]  # fmt: skip
    profiles = [
        {"backend": backend, "device": "cuda", "precision": precision, "batch": 8, "total_s": 3e-3, "layers": layers}
        for backend in BACKENDS for precision in PRECISIONS
    ]  # fmt: skip
    machine = {"cpu": "a CPU", "cores": 32, "gpus": [{"name": "a GPU"}], "packages": {"torch": "2.13.0"}, "python": "3.12"}
    model = {"architecture": "resnet50", "weights": {"source": "random"}, "request": {}}
    return {"machine": machine, "model": model, "results": results, "samples": samples, "profiles": profiles}


def main() -> None:
    options = arguments(__doc__, rounds=7)
    chromium = next((path for path in map(shutil.which, ("chromium", "chromium-browser", "google-chrome")) if path), None)
    times: dict[str, list[float]] = {"ours_s": [], "matplotlib_s": [], "browser_s": []}
    with tempfile.TemporaryDirectory() as folder:
        run, page = Path(folder, "run.json"), Path(folder, "page.html")
        run.write_text(json.dumps(example()))
        for _ in range(options.rounds):
            times["ours_s"].append(fresh([sys.executable, "-c", OURS, str(run), str(page)]).wall_s)
            times["matplotlib_s"].append(fresh([sys.executable, "-c", PEER, str(run), str(page)]).wall_s)
            if chromium is not None:
                shown = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/profile"]
                times["browser_s"].append(fresh([*shown, "--dump-dom", page.as_uri()]).wall_s)
        size = float(page.stat().st_size)
    rows: list[Row] = [
        compare("a page of 50 results, against matplotlib's two charts", times["ours_s"], times["matplotlib_s"]),
        alone("the slowest of them", max(times["ours_s"]), unit="s", limit=RENDER),
        alone("its size", size, unit="bytes", limit=SIZE),
    ]
    if times["browser_s"]:
        rows.append(alone("Chromium: start, show it, end", sorted(times["browser_s"])[len(times["browser_s"]) // 2], unit="s"))
    finish("reporting", rows, times, options, results=len(example()["results"]))


if __name__ == "__main__":
    main()
