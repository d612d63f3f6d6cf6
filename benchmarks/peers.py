"""What a network's files are measured against: PyTorch in its several ways, ONNX Runtime, OpenVINO, on a GPU TensorRT.

    python benchmarks/peers.py [--json benchmarks/results/peers.json]
    python benchmarks/peers.py --cuda [--json benchmarks/results/gpu/peers.json]

Networks take raw pixels. All candidates of a network take turns in one process, round by round, in an order that rotates.
Latencies are host to host; on a GPU there are also images a second with queries queued ahead, images and answers staying on it,
and the limit is on the computation by its own clock. There, the file is written after each batch size, and what is in it is not
measured again. Weights and images are random: this is about speed. A candidate that does not work here is left out, and what it
said is kept.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from common import Limit, Row, compare, finish, parser
from gpu import bundle_of

from resnet_deploy._machine import cores, gpus
from resnet_deploy.backends.base import Backend
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.benchmarking.failures import error_line
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.pipeline.build import ensure_plan
from resnet_deploy.timing.conditions import Conditions, watch
from resnet_deploy.timing.measure import MeasureConfig, measure

NETWORKS = ("resnet18", "resnet50", "resnet101", "resnext50_32x4d")
CPU = (
    "eager", "eager:channels_last", "eager:compile", "eager:compile,freezing", "onnxruntime", "openvino",
    "onnxruntime:int8", "openvino:int8",
)  # fmt: skip
CUDA = (
    "eager:cuda", "eager:cudnn_benchmark", "eager:fp16,channels_last,cudnn_benchmark",
    "eager:fp16,channels_last,cudnn_benchmark,cuda_graph", "eager:cuda,fp16,channels_last,compile,freezing,cuda_graph",
    "eager:cuda,fp16,channels_last,max_autotune,freezing,cuda_graph", "eager:fp16,torch_tensorrt", "onnxruntime:cuda",
    "onnxruntime:cuda,fp16", "onnxruntime:fp16,prefer_nhwc", "onnxruntime:fp16,prefer_nhwc,cuda_graph",
    "onnxruntime:tensorrt,fp16", "tensorrt:fp16", "tensorrt:int8", "tensorrt-rtx:fp16", "tensorrt-rtx:int8",
)  # fmt: skip
ALONE = 256  # from this batch on, candidates run one after the other: sixteen do not fit into a GPU's memory
BATCHES = {"cpu": (1, 8), "cuda": (1, 8, 32, 128, 1024)}
OURS = {"cpu": ("onnxruntime:int8", "openvino:int8"), "cuda": ("tensorrt:int8", "tensorrt-rtx:int8")}
# The best of ours over the best that PyTorch does by itself, whatever way.
LIMITS = {"cpu": Limit(bound="at least", value=2.0), "cuda": Limit(bound="at least", value=1.5)}
Samples = dict[str, list[float]]


class Network:
    """A network's candidates, and what each of them took, in seconds, batch by batch and round by round.

    known: what an earlier run took, by batch: it is not measured again.
    """

    def __init__(self, name: str, work: Path, texts: Sequence[str], batches: Sequence[int], known: Recorded) -> None:
        self.name, self.batches, self.texts = name, batches, texts
        self.left_out: dict[str, str] = {}
        self.times: dict[int, Samples] = {batch: known.of(name, batch, "s") for batch in batches}
        self.queued: dict[int, Samples] = {batch: known.of(name, batch, "images_per_s") for batch in batches}
        self.compute: dict[int, Samples] = {batch: known.of(name, batch, "s on the device") for batch in batches}
        self._work = work

    def run(self, rounds: int, duration_s: float, save: Callable[[], None]) -> None:
        """Measure the batch sizes that are missing."""
        missing = [batch for batch in self.batches if not self.times[batch]]
        if not missing:
            return
        print(f"{self.name}: export", flush=True)
        precisions = "fp16,int8" if any("fp16" in text for text in self.texts) else "int8"
        self.opened = OpenedBundle(bundle_of(self.name, self._work, max(self.batches), precisions))
        for batch in missing:
            images = next(self.opened.data(f"random:{min(batch, 32)}:100000").batches(min(batch, 32))).images
            images = images[[index % len(images) for index in range(batch)]]
            texts = [text for text in self.texts if text not in self.left_out]
            for group in [[text] for text in texts] if batch >= ALONE else [texts]:
                self._measure(group, images, rounds, duration_s)
            for text, taken in self.times[batch].items():
                print(f"{self.name} batch {batch}  {text:55s} {statistics.median(taken) * 1e3:9.3f} ms", flush=True)
            save()

    def _measure(self, texts: Sequence[str], images: Any, rounds: int, duration_s: float) -> None:
        """Load candidates, let them take turns, and free what they hold."""
        backends: dict[str, Backend] = {}
        for text in texts:
            self._load(text, backends)
        for number in range(rounds if backends else 0):
            self._round(backends, number, images, duration_s, warmup_s=3.0 if number == 0 else 0.0)
        for backend in backends.values():
            backend.close()

    def _load(self, text: str, backends: dict[str, Backend]) -> None:
        candidate = Candidate.parse(text)
        try:
            if candidate.row.runs == "plan":
                ensure_plan(self.opened, candidate, self.batches)
            backends[text] = self.opened.backend(candidate, cores())
        except Exception as exc:  # whatever a runtime raises is what is to be recorded
            self._leave_out(text, exc)

    def _leave_out(self, text: str, exc: Exception) -> None:
        self.left_out[text] = error_line(exc)
        print(f"{self.name}: left out: {text}: {self.left_out[text]}", flush=True)

    def _round(self, backends: dict[str, Backend], number: int, images: Any, duration_s: float, warmup_s: float) -> None:
        names = list(backends)
        first = number % max(1, len(names))
        order = {name: backends[name] for name in names[first:] + names[:first]}
        config = MeasureConfig(duration_s=duration_s, rounds=1, min_samples=2, warmup_s=warmup_s)
        failed: dict[str, Exception] = {}
        found = measure(order, dict.fromkeys(order, images), config, failed=failed)
        for text, exc in failed.items():
            self._leave_out(text, exc)
            del backends[text]
        for text, measurement in found.items():
            self.times[len(images)].setdefault(text, []).append(measurement.host.p50)
            if measurement.queued_images_per_s is not None:
                self.queued[len(images)].setdefault(text, []).append(measurement.queued_images_per_s)
            if (compute := measurement.stage("compute_s")) is not None:
                self.compute[len(images)].setdefault(text, []).append(compute.p50)


class Recorded:
    """Samples of an earlier run, by network, batch, candidate and unit."""

    def __init__(self, path: Path | None = None) -> None:
        self.result: dict[str, Any] = json.loads(path.read_text()) if path is not None and path.is_file() else {}

    def of(self, network: str, batch: int, unit: str) -> Samples:
        start, end = f"{network} batch {batch} ", f", {unit}"
        samples = self.result.get("samples", {})
        return {
            key.removeprefix(start).removesuffix(end): values
            for key, values in samples.items()
            if key.startswith(start) and key.endswith(end)
        }


def best(times: Samples, texts: Iterable[str]) -> str | None:
    """The one of the least median, of those that were there in every round."""
    whole = max(map(len, times.values()), default=0)
    known = [text for text in texts if len(times.get(text, ())) == whole > 0]
    return min(known, key=lambda text: statistics.median(times[text]), default=None)


def rows(network: Network, device: str) -> list[Row]:
    """The best of ours against the best of PyTorch's own ways, and against the best of the others; on a GPU by its own clock,
    so that no copy of the host's is in it."""
    found = []
    for batch, times in (network.compute if device == "cuda" else network.times).items():
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
    made.add_argument("--batch", help="batch sizes, as in 1,32,128")
    made.add_argument("--candidate", action="append", help="in place of the known ones; may be repeated")
    made.add_argument("--work", type=Path, metavar="DIR", help="where bundles are kept [default: until the end]")
    made.add_argument("--duration", type=float, default=0.5, help="seconds of sampling, each candidate and round")
    return made.parse_args()


def report(networks: Sequence[Network], asked: argparse.Namespace, seen: Conditions | None, *, quiet: bool) -> None:
    """Write what there is so far."""
    device = "cuda" if asked.cuda else "cpu"
    samples: dict[str, list[float]] = {}
    left_out = {f"{network.name}: {text}": why for network in networks for text, why in network.left_out.items()}
    for network in networks:
        for unit, taken in (("s", network.times), ("images_per_s", network.queued), ("s on the device", network.compute)):
            samples |= {
                f"{network.name} batch {size} {text}, {unit}": one for size, by in taken.items() for text, one in by.items()
            }
    settings: dict[str, Any] = {
        "tables": [made for network in networks for made in tables(network)], "left_out": left_out,
        "conditions": None if seen is None else seen.to_dict(), "duration_s": asked.duration,
    }  # fmt: skip
    settings["note"] = "Input: raw pixels (uint8)."
    if left_out:
        settings["note"] += " Left out: " + "; ".join(f"{name} ({why})" for name, why in left_out.items()) + "."
    found = [row for network in networks for row in rows(network, device)]
    finish("peers", found, samples, asked, quiet=quiet, threads=cores(), **settings)


def main() -> None:
    asked = options()
    batches = tuple(map(int, asked.batch.split(","))) if asked.batch else BATCHES["cuda" if asked.cuda else "cpu"]
    texts, known = asked.candidate or (CUDA if asked.cuda else CPU), Recorded(asked.json if asked.cuda else None)
    gpus(needed=asked.cuda)  # also where nothing is left to be measured, the machine has them
    networks: list[Network] = []
    with tempfile.TemporaryDirectory() as folder, watch() as seen:
        for name in asked.network or NETWORKS:
            networks.append(Network(name, asked.work or Path(folder), texts, batches, known))
            networks[-1].run(asked.rounds, asked.duration, lambda: report(networks, asked, None, quiet=True))
    print()
    report(networks, asked, seen, quiet=False)


if __name__ == "__main__":
    main()
