"""Does our harness add to what it measures? Its median against a hand-written loop over the same ONNX Runtime session.

    python benchmarks/harness.py [--json benchmarks/results/harness.json]

A round is: the loop by hand, `measure` (what `resnet-deploy bench` runs), the loop by hand again, in short slices. The
ratio of a round is measure's median over the mean of the two loops' medians, so a machine that drifts cancels; the second
loop over the first is the control: what this machine finds between two things that are equal.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from common import Limit, Row, alone, arguments, compare, finish
from numpy.typing import NDArray
from onnx import helper

import resnet_deploy
from resnet_deploy._machine import cores
from resnet_deploy.backends.base import Backend
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.backends.onnxruntime.backend import OrtBackend
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.timing.conditions import watch_with
from resnet_deploy.timing.measure import MeasureConfig, measure

SAME = Limit(bound="within", value=0.03)
OVERHEAD = Limit(bound="at most", value=0.01)
EAGER = Limit(bound="at least", value=1.5)
ORT = Candidate(backend="onnxruntime")
ONNX = "model.fp32.onnx"
CASES = (("resnet18", 1, 8), ("resnet50", 1, 4), ("resnet50", 8, 2))  # architecture, batch, inferences in a slice
Images = NDArray[np.float32]


@dataclass
class Times:
    """Median seconds of each slice, round by round."""

    before_s: list[float] = field(default_factory=list)
    ours_s: list[float] = field(default_factory=list)
    after_s: list[float] = field(default_factory=list)

    @property
    def peer_s(self) -> list[float]:
        return [(a + b) / 2 for a, b in zip(self.before_s, self.after_s, strict=True)]


def by_hand(session: Any, images: Images, count: int) -> float:
    """The peer: median seconds of `session.run`."""
    times: list[float] = []
    session.run(None, {"input": images})  # settles, as in measure; not counted
    for _ in range(count):
        start = time.perf_counter()
        session.run(None, {"input": images})
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def ours(backend: Backend, images: Images, count: int) -> float:
    """Median seconds host to host, as `bench` finds it."""
    # As good as no duration: the number of inferences decides. The machine is watched, as `bench` does.
    config = MeasureConfig(duration_s=1e-9, rounds=1, min_samples=count, warmup_s=0)
    return measure({"ours": backend}, {"ours": images}, config, watch=lambda name: watch_with(None))["ours"].host.p50


def take_turns(backend: OrtBackend, images: Images, count: int, rounds: int) -> Times:
    session, times = backend._session.session, Times()
    by_hand(session, images, count)
    for _ in range(rounds):
        times.before_s.append(by_hand(session, images, count))
        times.ours_s.append(ours(backend, images, count))
        times.after_s.append(by_hand(session, images, count))
    return times


def smallest(folder: Path) -> OrtBackend:
    """A graph with ResNet's input and output and almost no work between them: what is left is the call."""
    weight = np.zeros((3, 1000), np.float32)
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weight"], ["logits"]),
    ]
    images = helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["batch", 3, 224, 224])
    logits = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 1000])
    graph = helper.make_graph(nodes, "smallest", [images], [logits], [onnx.numpy_helper.from_array(weight, "weight")])
    path = folder / "smallest.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10), path)
    return OrtBackend(path, ORT, threads=cores())


def eager_against_ort(opened: OpenedBundle, rounds: int) -> tuple[list[float], list[float]]:
    """Medians of each round, seconds: eager PyTorch, then ONNX Runtime."""
    names = ("eager", "onnxruntime")
    images = example(1)
    found: dict[str, list[float]] = {name: [] for name in names}
    backends = {name: opened.backend(Candidate.parse(name), cores()) for name in names}
    config = MeasureConfig(duration_s=1e-9, rounds=1, min_samples=4, warmup_s=0)
    for turn in range(rounds):
        order = names if turn % 2 else names[::-1]
        measured = measure({name: backends[name] for name in order}, dict.fromkeys(names, images), config)
        for name in names:
            found[name].append(measured[name].host.p50)
    return found["eager"], found["onnxruntime"]


def example(batch: int) -> Images:
    return np.random.default_rng(batch).standard_normal((batch, 3, 224, 224), np.float32)


def rows(name: str, times: Times) -> list[Row]:
    return [
        compare(f"{name}: `measure` against a loop by hand", times.ours_s, times.peer_s, limit=SAME),
        compare(f"{name}: control, the loop against itself", times.after_s, times.before_s),
    ]


def watching(backend: OrtBackend, rounds: int) -> list[float]:
    """The watcher's own CPU time, of a measurement's time, while a network runs on all cores."""
    images, found = example(1), []
    for _ in range(rounds):
        with watch_with(None) as seen:
            end = time.perf_counter() + 1
            while time.perf_counter() < end:
                backend.infer(images)
        found.append(seen.watching_s / seen.duration_s)
    return found


def added(times: Times, inference_s: list[float]) -> Row:
    """What our side of a call costs, against the inference that it is part of."""
    added_s = [a - b for a, b in zip(times.ours_s, times.peer_s, strict=True)]
    typical_s = statistics.median(inference_s)
    what = f"added to a call, against {CASES[0][0]} batch {CASES[0][1]}"
    return compare(what, added_s, [typical_s] * len(added_s), limit=OVERHEAD)


def run(folder: Path, rounds: int) -> tuple[list[Row], dict[str, list[float]]]:
    """All rows, and the samples behind them by name."""
    subjects = {}
    for arch in dict.fromkeys(case[0] for case in CASES):
        print(f"export {arch}", flush=True)
        subjects[arch] = OpenedBundle(resnet_deploy.export(arch, folder / arch, max_batch=8))
    found: dict[str, Times] = {}
    for arch, batch, count in CASES:
        name = f"{arch} batch {batch}"
        print(name, flush=True)
        backend = OrtBackend(subjects[arch].bundle.artifact(ONNX), ORT, threads=cores())
        found[name] = take_turns(backend, example(batch), count, max(4, rounds // batch))
    watched = watching(OrtBackend(subjects[CASES[0][0]].bundle.artifact(ONNX), ORT, threads=cores()), max(3, rounds // 8))
    call = take_turns(smallest(folder), example(1), 50, 5 * rounds)
    print("eager PyTorch and ONNX Runtime", flush=True)
    eager_s, ort_s = eager_against_ort(subjects["resnet50"], max(4, rounds // 2))
    table = [row for name, times in found.items() for row in rows(name, times)]
    table.append(added(call, next(iter(found.values())).peer_s))
    share = statistics.median(watched)
    table.append(alone("watching the machine, of a core's time", share, unit="fraction", limit=OVERHEAD))
    table.append(compare("resnet50 batch 1: speed-up over eager PyTorch, FP32", ort_s, eager_s, limit=EAGER, speedup=True))
    samples = {
        f"{name}.{part}": values for name, times in (found | {"call": call}).items() for part, values in vars(times).items()
    }
    return table, samples | {"eager_s": eager_s, "onnxruntime_s": ort_s, "watching_share": watched}


def main() -> None:
    options = arguments(__doc__, rounds=40)
    with tempfile.TemporaryDirectory() as folder:
        table, samples = run(Path(folder), options.rounds)
    print()
    finish("harness", table, samples, options, cases=CASES, threads=cores())


if __name__ == "__main__":
    main()
