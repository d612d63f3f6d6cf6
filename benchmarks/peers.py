"""What a network's files are measured against: PyTorch in its several ways, ONNX Runtime, OpenVINO, on a GPU TensorRT.

    python benchmarks/peers.py [--json benchmarks/results/peers.json]
    python benchmarks/peers.py --cuda [--json benchmarks/results/gpu/peers.json]

All candidates of a network take turns in one process, round by round, in an order that rotates. Latencies are host to host;
on a GPU there are also images a second with queries queued ahead, images and answers staying on it. Weights and images are
random: this is about speed. A candidate that does not work here is left out, and what it said is kept.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from common import Limit, Row, compare, finish, parser

from resnet_deploy._machine import cores
from resnet_deploy.backends.base import Backend
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.benchmarking.failures import error_line
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.pipeline.build import ensure_plan
from resnet_deploy.pipeline.export import export
from resnet_deploy.timing.conditions import watch
from resnet_deploy.timing.measure import MeasureConfig, measure

NETWORKS = ("resnet18", "resnet50", "resnet101", "resnext50_32x4d")
CPU = (
    "eager", "eager:channels_last", "eager:compile", "onnxruntime", "openvino", "onnxruntime:int8", "openvino:int8",
)  # fmt: skip
CUDA = (
    "eager:cuda", "eager:cuda,channels_last", "eager:cuda,fp16,channels_last", "eager:cuda,fp16,channels_last,compile",
    "eager:cuda,fp16,channels_last,max_autotune,cuda_graph", "onnxruntime:cuda", "onnxruntime:cuda,fp16",
    "onnxruntime:tensorrt,fp16", "tensorrt:fp16", "tensorrt:int8", "tensorrt-rtx:fp16", "tensorrt-rtx:int8",
)  # fmt: skip
BATCHES = {"cpu": (1, 8), "cuda": (1, 8, 32, 128, 1024)}
OURS = {"cpu": ("onnxruntime:int8", "openvino:int8"), "cuda": ("tensorrt:int8", "tensorrt-rtx:int8")}
CALIBRATION = "random:16"
# The best of ours over the best that PyTorch does by itself, whatever way.
LIMITS = {"cpu": Limit(bound="at least", value=2.0), "cuda": Limit(bound="at least", value=1.5)}
Samples = dict[str, list[float]]


class Network:
    """A network's candidates, loaded, and what each of them took, in seconds, batch by batch and round by round."""

    def __init__(self, name: str, folder: Path, texts: Iterable[str], batches: Sequence[int]) -> None:
        self.name, self.batches = name, batches
        print(f"{name}: export", flush=True)
        bundle = export(
            name, folder / name, max_batch=max(batches), precision=("fp16", "int8") if "tensorrt:int8" in texts else "int8",
            calibration=CALIBRATION, calibration_method="max",
        )  # fmt: skip
        self.backends: dict[str, Backend] = {}
        self.left_out: dict[str, str] = {}
        self.times: dict[int, Samples] = {batch: {} for batch in batches}
        self.queued: dict[int, Samples] = {batch: {} for batch in batches}  # images a second
        self.opened = OpenedBundle(bundle)
        for text in texts:
            self._load(text)

    def _load(self, text: str) -> None:
        candidate = Candidate.parse(text)
        try:
            if candidate.row.runs == "plan":
                ensure_plan(self.opened, candidate, self.batches)
            self.backends[text] = self.opened.backend(candidate, cores())
        except Exception as exc:  # whatever a runtime raises is what is to be recorded
            self._leave_out(text, exc)

    def _leave_out(self, text: str, exc: Exception) -> None:
        self.left_out[text] = error_line(exc)
        self.backends.pop(text, None)
        print(f"{self.name}: left out: {text}: {self.left_out[text]}", flush=True)

    def run(self, rounds: int, duration_s: float) -> None:
        for batch in self.batches:
            images = next(self.opened.data(f"random:{min(batch, 32)}").batches(min(batch, 32))).images
            images = images[[index % len(images) for index in range(batch)]]
            for number in range(rounds):
                self._round(number, images, duration_s, warmup_s=3.0 if number == 0 else 0.0)
            for text, taken in self.times[batch].items():
                print(f"{self.name} batch {batch}  {text:55s} {statistics.median(taken) * 1e3:9.3f} ms", flush=True)

    def _round(self, number: int, images: Any, duration_s: float, warmup_s: float) -> None:
        names = list(self.backends)
        first = number % max(1, len(names))
        order = {name: self.backends[name] for name in names[first:] + names[:first]}
        config = MeasureConfig(duration_s=duration_s, rounds=1, min_samples=2, warmup_s=warmup_s)
        failed: dict[str, Exception] = {}
        found = measure(order, dict.fromkeys(order, images), config, failed=failed)
        for text, exc in failed.items():
            self._leave_out(text, exc)
        for text, measurement in found.items():
            self.times[len(images)].setdefault(text, []).append(measurement.host.p50)
            if measurement.queued_images_per_s is not None:
                self.queued[len(images)].setdefault(text, []).append(measurement.queued_images_per_s)

    def close(self) -> None:
        for backend in self.backends.values():
            backend.close()


def best(times: Samples, texts: Iterable[str]) -> str | None:
    """The one of the least median, of those that were there in every round."""
    whole = max(map(len, times.values()), default=0)
    known = [text for text in texts if len(times.get(text, ())) == whole > 0]
    return min(known, key=lambda text: statistics.median(times[text]), default=None)


def rows(network: Network, device: str) -> list[Row]:
    """The best of ours against the best of PyTorch's own ways, and against the best of the others."""
    found = []
    for batch, times in network.times.items():
        ours = best(times, OURS[device])
        peers = (
            best(times, [text for text in times if text.startswith("eager")]),
            best(times, [text for text in times if not text.startswith("eager") and "int8" not in text]),
        )
        for peer, limit in zip(peers, (LIMITS[device], None), strict=True):
            if ours is not None and peer is not None:
                what = f"{network.name} batch {batch}: {ours}, faster than {peer}"
                found.append(compare(what, times[ours], times[peer], speedup=True, limit=limit))
    return found


def tables(network: Network) -> list[dict[str, Any]]:
    """Every candidate at every batch size: median latency and images a second; on a GPU also with queries queued."""
    found = [_table(f"{network.name}: host to host, ms and images/s", network.times, _latency)]
    if any(network.queued.values()):
        title = f"{network.name}: on the device, queued, images/s"
        found.append(_table(title, network.queued, lambda taken, batch: f"{statistics.median(taken):,.0f}"))
    return found


def _table(title: str, samples: dict[int, Samples], cell: Callable[[list[float], int], str]) -> dict[str, Any]:
    texts = dict.fromkeys(text for taken in samples.values() for text in taken)
    lines = [
        [text, *("–" if text not in taken else cell(taken[text], batch) for batch, taken in samples.items())] for text in texts
    ]
    return {"title": title, "columns": ["candidate", *(f"batch {batch}" for batch in samples)], "lines": lines}


def _latency(taken: list[float], batch: int) -> str:
    seconds = statistics.median(taken)
    return f"{seconds * 1e3:.3g}, {batch / seconds:,.0f}"


def options() -> argparse.Namespace:
    made = parser(__doc__, rounds=5)
    made.add_argument("--cuda", action="store_true", help="the candidates and batch sizes of a GPU")
    made.add_argument("--network", action="append", help=f"of {', '.join(NETWORKS)}, or any other; may be repeated")
    made.add_argument("--duration", type=float, default=0.5, help="seconds of sampling, each candidate and round")
    return made.parse_args()


def main() -> None:
    asked = options()
    device = "cuda" if asked.cuda else "cpu"
    found: list[Row] = []
    samples: dict[str, list[float]] = {}
    own: list[dict[str, Any]] = []
    left_out: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder, watch() as seen:
        for name in asked.network or NETWORKS:
            network = Network(name, Path(folder), CUDA if asked.cuda else CPU, BATCHES[device])
            network.run(asked.rounds, asked.duration)
            network.close()
            found += rows(network, device)
            own += tables(network)
            left_out |= {f"{name}: {text}": why for text, why in network.left_out.items()}
            for unit, taken in (("s", network.times), ("images_per_s", network.queued)):
                samples |= {
                    f"{name} batch {size} {text}, {unit}": one for size, by in taken.items() for text, one in by.items()
                }
    print()
    settings = {"tables": own, "left_out": left_out, "conditions": seen.to_dict(), "duration_s": asked.duration}
    if left_out:
        settings["note"] = "Left out: " + "; ".join(f"{name} ({why})" for name, why in left_out.items()) + "."
    finish("peers", found, samples, asked, threads=cores(), **settings)


if __name__ == "__main__":
    main()
