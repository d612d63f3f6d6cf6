"""How long `bench` takes: ResNet-50 on the CPU, three backends, two batch sizes, once the artifacts are there.

    python benchmarks/bench.py [--json benchmarks/results/bench.json]

A process from its start to its end, as a user runs it: everything is loaded, compared with eager on 32 images and measured
again (`--fresh`). What the sampling alone takes is beside it: three seconds for each backend and batch.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from common import Limit, Row, alone, arguments, compare, finish, fresh

ARCHITECTURE = "resnet50"
BACKENDS = ("eager", "onnxruntime", "openvino")
BATCHES = (1, 8)
WHOLE = Limit(bound="at most", value=60.0)
COMMAND = (sys.executable, "-m", "resnet_deploy.cli")


def command(bundle: Path) -> list[str]:
    backends = [part for backend in BACKENDS for part in ("--backend", backend)]
    batches = ",".join(map(str, BATCHES))
    return [*COMMAND, "bench", str(bundle), "--batch", batches, *backends, "--fresh", "--json"]


def run(folder: Path, rounds: int) -> tuple[list[Row], dict[str, list[float]]]:
    bundle = folder / ARCHITECTURE
    fresh([*COMMAND, "export", ARCHITECTURE, "-o", str(bundle)])
    samples: dict[str, list[float]] = {"wall_s": [], "sampling_s": [], "peak_bytes": []}
    for number in range(rounds):
        done = fresh(command(bundle))
        results = json.loads(done.stdout)["results"]
        samples["wall_s"].append(done.wall_s)
        samples["sampling_s"].append(sum(row["conditions"]["duration_s"] for row in results))
        samples["peak_bytes"].append(done.peak_bytes)
        print(f"round {number + 1}: {done.wall_s:.1f} s, {samples['sampling_s'][-1]:.1f} s of it in turns", flush=True)
    what = f"{ARCHITECTURE}, {len(BACKENDS)} backends, batch {' and '.join(map(str, BATCHES))}"
    rows = [
        alone(f"{what}: the slowest round", max(samples["wall_s"]), unit="s", limit=WHOLE),
        compare(f"{what}: whole process, against its turns", samples["wall_s"], samples["sampling_s"]),
        alone(f"{what}: peak memory", max(samples["peak_bytes"]), unit="bytes"),
    ]
    return rows, samples


def main() -> None:
    options = arguments(__doc__, rounds=3)
    with tempfile.TemporaryDirectory() as folder:
        rows, samples = run(Path(folder), options.rounds)
    print()
    finish("bench", rows, samples, options, backends=BACKENDS, batches=BATCHES)


if __name__ == "__main__":
    main()
