"""Do profiles agree with the time without a profiler? ResNet-50, by backend.

    python benchmarks/profiles.py [--backend B ...] [--batch 1,8] [--json benchmarks/results/profiles.json]

Two rows of each backend and batch size: the sum of its layers, and a whole inference while the profiler looks on, each against
the same inference without it, taken just before. On a GPU's machine: --backend tensorrt --backend tensorrt-rtx --backend
onnxruntime:cuda --backend eager:cuda.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from common import Row, compare, finish, parser

import resnet_deploy
from resnet_deploy._machine import cores
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.benchmarking.layers.profile import profile_layers
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.pipeline.build import ensure_plan
from resnet_deploy.specs import parse_batches

ARCHITECTURE = "resnet50"
BACKENDS = ("eager", "onnxruntime", "onnxruntime:int8", "openvino", "openvino:int8")


def export(folder: Path, candidates: list[Candidate], largest: int) -> OpenedBundle:
    """The network in every precision that is asked for. Weights and calibration images are random: times are not theirs."""
    precisions = sorted({candidate.precision.value for candidate in candidates if candidate.backend != "eager"} | {"fp32"})
    calibration = {"calibration": "random:8", "calibration_method": "max"} if {"int8", "fp8"} & set(precisions) else {}
    bundle = resnet_deploy.export(ARCHITECTURE, folder / ARCHITECTURE, max_batch=largest, precision=precisions, **calibration)
    return OpenedBundle(bundle)


def take_turns(
    opened: OpenedBundle, candidates: list[Candidate], batches: tuple[int, ...], rounds: int
) -> dict[str, list[float]]:
    """Seconds of each round, by backend, batch and what they are of."""
    found: dict[str, list[float]] = {}
    for turn in range(rounds):
        for candidate in candidates[turn % len(candidates) :] + candidates[: turn % len(candidates)]:
            with opened.backend(candidate, cores()) as backend:
                for batch in batches:
                    print(f"round {turn + 1}: {candidate} batch {batch}", flush=True)
                    shape = (batch, *(int(size) for size in backend.input_spec.shape[1:]))
                    one = profile_layers(backend, np.random.default_rng(batch).standard_normal(shape, np.float32))
                    for name in ("total_s", "profiled_s", "latency_s"):
                        found.setdefault(f"{candidate} batch {batch}.{name}", []).append(getattr(one, name))
    return found


def rows(candidates: list[Candidate], batches: tuple[int, ...], samples: dict[str, list[float]]) -> list[Row]:
    """The sum of the layers, and the whole, against the inference that nobody looked at."""
    made = []
    for candidate in candidates:
        for batch in batches:
            name = f"{candidate} batch {batch}"
            for what, key in (("sum of the layers", "total_s"), ("with the profiler", "profiled_s")):
                made.append(compare(f"{name}: {what}", samples[f"{name}.{key}"], samples[f"{name}.latency_s"]))
    return made


def arguments() -> argparse.Namespace:
    made = parser(__doc__, rounds=5)
    made.add_argument("--backend", action="append", help=f"may be repeated (default {', '.join(BACKENDS)})")
    made.add_argument("--batch", default="1,8", help="batch sizes (default 1,8)")
    return made.parse_args()


def main() -> None:
    options = arguments()
    candidates, batches = [Candidate.parse(text) for text in options.backend or BACKENDS], parse_batches(options.batch)
    with tempfile.TemporaryDirectory() as folder:
        opened = export(Path(folder), candidates, max(batches))
        for candidate in candidates:
            if candidate.row.runs == "plan":
                ensure_plan(opened, candidate, batches)
        samples = take_turns(opened, candidates, batches, options.rounds)
    print()
    named = {"candidates": list(map(str, candidates)), "batches": list(batches), "threads": cores()}
    finish("profiles", rows(candidates, batches, samples), samples, options, **named)


if __name__ == "__main__":
    main()
