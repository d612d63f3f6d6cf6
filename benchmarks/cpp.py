"""What an inference takes in C++ against Python: batch 1, the same ONNX Runtime library, graph, threads and image.

    python benchmarks/cpp.py [--json benchmarks/results/cpp.json]

A round is three fresh processes in turn, the first and the last being Python's `session.run`: the ratio is the C++
program's median over the mean of the two, and the second of Python's over the first is what the machine finds between equals.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import Limit, Row, arguments, compare, finish, fresh

import resnet_deploy
from resnet_deploy._machine import cores
from resnet_deploy.serving.cpp.write import SOURCES

AT_MOST = Limit(bound="at most", value=1.0)
ROOT = Path(__file__).parent.parent
CASES = (
    ("resnet20", {"weights": ROOT / "examples" / "digits" / "resnet20.safetensors"}, 32, 2000),
    ("resnet18", {}, 224, 60),
    ("resnet50", {}, 224, 30),
)  # architecture, options, image size, inferences of a slice
PYTHON = """
import json, sys, time
import numpy, onnxruntime
graph, image, size, threads, count = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = threads
session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
pixels = numpy.fromfile(image, numpy.uint8).reshape(1, size, size, 3)
times = []
for _ in range(3 + count):
    start = time.perf_counter()
    session.run(None, {"input": pixels})
    times.append(time.perf_counter() - start)
print(json.dumps(times[3:]))
"""  # classify too leaves its first three out


def build(folder: Path) -> Path:
    """The program, as a user builds it. ONNXRUNTIME_INCLUDE names the headers' folder, where `make setup` did not put it."""
    headers = os.environ.get("ONNXRUNTIME_INCLUDE", f"{sys.prefix}/include/onnxruntime")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    for command in (
        ["cmake", "-S", str(SOURCES), "-B", str(folder), f"-DONNXRUNTIME_INCLUDE={headers}"],
        ["cmake", "--build", str(folder)],
    ):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "PATH": path})
    return folder / "classify"


def median_s(samples: list[float]) -> float:
    return float(np.median(samples))


def take_turns(program: Path, bundle: Path, image: Path, size: int, count: int, rounds: int) -> dict[str, list[float]]:
    """Median seconds of each slice, round by round."""
    threads = str(cores())
    ours = [str(program), str(bundle), str(image), "--repeat", str(count), "--threads", threads, "--json"]
    peer = [sys.executable, "-c", PYTHON, str(bundle / "model.fp32.onnx"), str(image), str(size), threads, str(count)]
    found: dict[str, list[float]] = {"before_s": [], "ours_s": [], "after_s": []}
    for _ in range(rounds):
        found["before_s"].append(median_s(json.loads(fresh(peer).stdout)))
        found["ours_s"].append(median_s(json.loads(fresh(ours).stdout.splitlines()[-1])["latency_s"]))
        found["after_s"].append(median_s(json.loads(fresh(peer).stdout)))
    return found


def rows(name: str, found: dict[str, list[float]]) -> list[Row]:
    peer_s = [(a + b) / 2 for a, b in zip(found["before_s"], found["after_s"], strict=True)]
    return [
        compare(f"{name}, batch 1: C++ against Python", found["ours_s"], peer_s, limit=AT_MOST),
        compare(f"{name}, batch 1: control, Python against itself", found["after_s"], found["before_s"]),
    ]


def main() -> None:
    options = arguments(__doc__, rounds=20)
    table: list[Row] = []
    samples: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        program = build(folder / "program")
        for architecture, settings, size, count in CASES:
            print(architecture, flush=True)
            bundle = resnet_deploy.export(architecture, folder / architecture, input="uint8", max_batch=2, **settings)
            image = folder / f"{architecture}.rgb"
            image.write_bytes(np.random.default_rng(0).integers(0, 256, (size, size, 3), np.uint8).tobytes())
            found = take_turns(program, bundle.path, image, size, count, options.rounds)
            table += rows(architecture, found)
            samples |= {f"{architecture}.{part}": values for part, values in found.items()}
    finish("cpp", table, samples, options, cases=[(name, size, count) for name, _, size, count in CASES], threads=cores())


if __name__ == "__main__":
    main()
