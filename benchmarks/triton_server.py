"""What a Triton server adds to ONNX Runtime: throughput and p99 at concurrency 1, 4 and 16, against calling it directly.

    python benchmarks/triton_server.py [--json benchmarks/results/triton_server.json]

(It is not called triton.py: beside the other benchmarks, that would hide the language of that name from PyTorch.)

Both run the same file with the same threads, one image a request; direct calls share a session in this process, requests
come over gRPC on the loopback interface from a process of their own. They take turns, slice by slice. The server is NVIDIA's,
its ONNX Runtime backend a stand-in written in Python (examples/triton): with NVIDIA's own, the server adds less.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import Row, compare, finish, parser

import resnet_deploy as rd
from resnet_deploy._machine import cores
from resnet_deploy.bundle.opened import OpenedBundle

ROOT = Path(__file__).parent.parent
CONCURRENCIES = (1, 4, 16)
MAX_BATCH = 16


@dataclass(frozen=True)
class Slice:
    """Requests of one slice: how many a second, and the latency that 99 % of them kept."""

    per_s: float
    p99_s: float

    @classmethod
    def of(cls, latency_s: list[float], wall_s: float) -> Slice:
        return cls(len(latency_s) / wall_s, float(np.quantile(latency_s, 0.99)))


def example_server() -> Any:
    """examples/triton/server.py as a module."""
    spec = importlib.util.spec_from_file_location("example_server", ROOT / "examples" / "triton" / "server.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def direct(session: Any, image: Any, concurrency: int, seconds: float) -> Slice:
    """Threads that call one session."""
    taken: list[list[float]] = [[] for _ in range(concurrency)]
    end = time.perf_counter() + seconds

    def run(times: list[float]) -> None:
        while (start := time.perf_counter()) < end:
            session.run(None, {"input": image})
            times.append(time.perf_counter() - start)

    began = time.perf_counter()
    threads = [threading.Thread(target=run, args=(times,)) for times in taken]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Slice.of([*itertools.chain.from_iterable(taken)], time.perf_counter() - began)


def served(client: subprocess.Popen[str], concurrency: int, seconds: float) -> Slice:
    """The same from the client's process."""
    assert client.stdin is not None and client.stdout is not None
    client.stdin.write(f"{concurrency} {seconds}\n")
    client.stdin.flush()
    return Slice.of(**json.loads(client.stdout.readline()))


def take_turns(session: Any, client: Any, image: Any, seconds: float, rounds: int) -> dict[str, list[float]]:
    samples: dict[str, list[float]] = defaultdict(list)
    for concurrency in CONCURRENCIES:
        for turn in range(-1, rounds):  # the first settles both, and is not counted
            for which in ("direct", "triton") if turn % 2 else ("triton", "direct"):
                found = (
                    served(client, concurrency, seconds) if which == "triton" else direct(session, image, concurrency, seconds)
                )
                if turn >= 0:
                    samples[f"{which}_{concurrency}_per_s"].append(found.per_s)
                    samples[f"{which}_{concurrency}_p99_s"].append(found.p99_s)
    return samples


def rows_of(samples: dict[str, list[float]]) -> list[Row]:
    rows = []
    for concurrency in CONCURRENCIES:
        for what, key, unit in (("images a second", "per_s", "count"), ("p99", "p99_s", "s")):
            pair = (samples[f"{which}_{concurrency}_{key}"] for which in ("triton", "direct"))
            rows.append(compare(f"{what} at concurrency {concurrency}: Triton against direct calls", *pair, unit=unit))
    return rows


def main() -> None:
    import onnxruntime as ort

    asking = parser(__doc__, rounds=5)
    asking.add_argument("--architecture", default="resnet50")
    asking.add_argument("--seconds", type=float, default=4.0, help="of each slice (default 4)")
    options = asking.parse_args()
    server, threads = example_server(), cores()
    server.prepare()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = rd.export(options.architecture, folder / "bundle", input="uint8", max_batch=MAX_BATCH)
        rd.write_triton(bundle, folder / "models", name="net", threads=threads)
        images = folder / "images.npy"
        np.save(images, next(OpenedBundle(bundle).data("random:1").batches(1)).images)
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = threads
        session = ort.InferenceSession(str(bundle.artifact("model.fp32.onnx")), settings, providers=["CPUExecutionProvider"])
        python = server.FOLDER / "env" / "bin" / "python"
        with server.serve(folder / "models") as running:
            command = [python, Path(__file__).with_name("triton_client.py"), running.grpc, "net", images]
            with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
                samples = take_turns(session, client, np.load(images), options.seconds, options.rounds)
                client.stdin.close()  # type: ignore[union-attr]
    finish("triton_server", rows_of(samples), samples, options, threads=threads, seconds=options.seconds, max_batch=MAX_BATCH)


if __name__ == "__main__":
    main()
