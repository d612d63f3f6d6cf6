"""Every network in FP32, FP16 and INT8 on a GPU: parity against eager, latency and throughput, beside eager PyTorch and ONNX
Runtime in the same run.

    python benchmarks/gpu.py --json benchmarks/results/gpu/networks.json [NETWORK...]

digits is the trained ResNet-20 on real images; the others have random weights and images: their speed is real. All take raw
pixels. A backend that does not work on this machine is left out, and its message is kept. The file is written after each
batch size, and what is in it is not measured again. --sustained runs queries without a pause at the largest batch.
`--cpu` goes through the same motions without a GPU.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import write_json

import resnet_deploy as rd
from resnet_deploy._machine import describe_machine, gpus
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.backends.table import BACKENDS
from resnet_deploy.bundle.opened import OpenedBundle

DIGITS = Path(__file__).parent.parent / "examples" / "digits" / "resnet20.safetensors"
NETWORKS = ("digits", "resnet50", "resnet18", "resnet101", "resnet152", "resnext50_32x4d", "preact_resnet50")
GPU = (
    "eager:cuda", "eager:cuda,fp16,channels_last", "eager:cuda,fp16,channels_last,cuda_graph", "onnxruntime:cuda",
    "onnxruntime:tensorrt", "tensorrt", "tensorrt-rtx",
)  # fmt: skip
CPU = ("eager", "onnxruntime")
PEER = "eager:channels_last,cuda_graph"  # as results name it: FP16 with CUDA graphs
LIMITS = {"int8 over eager fp16, batch 128": 2.5, "int8 batch 1, s": 0.35e-3, "device time over a bare loop": 0.02}


def bundle_of(network: str, work: Path, largest: int, precision: str) -> rd.Bundle:
    """The network's bundle; all programs of one run share it. Images of a calibration are never those that are measured."""
    if network == "digits":
        given: dict[str, Any] = {"weights": DIGITS, "calibration": "digits:train", "calibration_images": 128}
    else:
        given = {"calibration": "random:32"}
    largest = max(32, largest)
    return rd.export(
        "resnet20" if network == "digits" else network, work / f"{network}-{largest}", input="uint8", max_batch=largest,
        precision=precision, calibration_method="max", **given,
    )  # fmt: skip


def build_plans(bundle: rd.Bundle, backends: Sequence[str], precisions: str, batches: Sequence[int]) -> dict[str, str]:
    """One plan for all batch sizes, before they are measured one by one; what was refused is told."""
    refused = {}
    profiles = (f"1:{max(batches)}:{max(batches)}", *map(str, batches))
    for flavour in {row.name for text in backends if (row := Candidate.parse(text).row).runs == "plan"}:
        for precision in precisions.split(","):
            try:
                rd.build(bundle, precision=precision, flavour=flavour, batch=profiles)
            except Exception as exc:  # whatever a runtime raises is what is to be recorded
                refused[f"{flavour}:{precision}"] = f"{type(exc).__name__}: {exc}"
    return refused


def measure(bundle: rd.Bundle, network: str, backends: Sequence[str], batch: int, **options: Any) -> dict[str, Any]:
    """A batch size, as `bench` has it."""
    data = {"data": "digits"} if network == "digits" else {}
    report = rd.bench(bundle, backend=backends, batch=batch, **data, **options).to_dict()
    return {name: report[name] for name in ("results", "unmeasured", "warnings")}


def bare_loop(bundle: Path, text: str, batch: int, rounds: int = 15) -> dict[str, float]:
    """The backend's device time against the calls of TensorRT's guide on the same plan, in turns: medians in seconds."""
    import torch

    candidate = Candidate.parse(text)
    opened = OpenedBundle(rd.Bundle.open(bundle))
    images = next(opened.data(f"random:{batch}").batches(batch)).images
    taken: dict[str, list[float]] = {"ours_s": [], "bare_s": []}
    with opened.backend(candidate, None) as backend:
        backend.infer(images)
        backend.bind(images)
        context, stream = backend.streams[0].bound.context, torch.cuda.Stream()

        def bare() -> None:
            context.execute_async_v3(stream.cuda_stream)

        bare()
        stream.synchronize()
        run = bare
        if backend.captures:  # type: ignore[attr-defined]
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                bare()
            run = graph.replay
        for turn in range(rounds):
            for way in sorted(taken, reverse=bool(turn % 2)):
                times = []
                for _ in range(50):
                    start = time.perf_counter()
                    if way == "ours_s":
                        backend.enqueue()
                        backend.synchronize()
                    else:
                        with torch.cuda.stream(stream):
                            run()
                        stream.synchronize()
                    times.append(time.perf_counter() - start)
                taken[way].append(statistics.median(times))
    return {way: statistics.median(values) for way, values in taken.items()}


def judged(results: list[dict[str, Any]]) -> dict[str, Any]:
    """The limits that a network's figures can be held to."""
    latency = {(r["backend"], r["precision"], r["batch"]): r["device_latency_s"]["p50"] for r in results}
    found: dict[str, Any] = {}
    for backend in [row.name for row in BACKENDS.values() if row.runs == "plan"]:
        peer, ours = latency.get((PEER, "fp16", 128)), latency.get((backend, "int8", 128))
        if peer and ours:
            found[f"{backend}: int8 over eager fp16 with CUDA graphs, batch 128"] = peer / ours
        if (backend, "int8", 1) in latency:
            found[f"{backend}: int8 batch 1, device s"] = latency[backend, "int8", 1]
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS, metavar="NETWORK")
    parser.add_argument("--json", type=Path, required=True, metavar="FILE")
    parser.add_argument("--work", type=Path, metavar="DIR", help="where bundles are kept [default: until the end]")
    parser.add_argument("--batch", default="1,8,32,128")
    parser.add_argument("--backend", action="append", help="in place of the known ones; may be repeated")
    parser.add_argument("--precision", default="fp32,fp16,int8")
    parser.add_argument("--limit", type=int, help="so many images of the digits are judged [default: all]")
    parser.add_argument("--duration", type=float, default=0.6, help="seconds of sampling, each candidate and batch")
    parser.add_argument("--sustained", type=float, help="seconds without a pause, at the largest batch")
    parser.add_argument("--cpu", action="store_true")
    return parser.parse_args()


def run(network: str, kept: dict[str, Any], asked: argparse.Namespace, work: Path, save: Any) -> None:
    """Measure what is missing of a network. kept: what there is, added to batch by batch."""
    batches = tuple(int(size) for size in asked.batch.split(","))
    backends = asked.backend or (CPU if asked.cpu else GPU)
    missing = [size for size in batches if str(size) not in kept["batches"]]
    if not missing and "bare_loop" in kept:
        return
    bundle = bundle_of(network, work, max(batches), asked.precision)
    if missing:
        kept.setdefault("left_out", {}).update(build_plans(bundle, backends, asked.precision, batches))
    for size in missing:
        sustained = {"sustained": asked.sustained} if asked.sustained and size == max(batches) else {}
        kept["batches"][str(size)] = measure(
            bundle, network, backends, size, duration=asked.duration, precision=asked.precision, limit=asked.limit, **sustained
        )
        save()
    results = [row for found in kept["batches"].values() for row in found["results"]]
    kept["judged"] = judged(results)
    plans = {row["backend"] for row in results if row["precision"] == "int8"} & {
        row.name for row in BACKENDS.values() if row.runs == "plan"
    }
    kept["bare_loop"] = {
        f"{name}:int8, batch {size}": bare_loop(bundle.path, f"{name}:int8", size)
        for name in sorted(plans) for size in (1, batches[-1])
    }  # fmt: skip


def main() -> None:
    asked, failed = arguments(), []
    known = json.loads(asked.json.read_text()) if asked.json.is_file() else {}
    found: dict[str, Any] = {"benchmark": "gpu", "networks": {}} | known

    gpus(needed=True)  # also where nothing is left to be measured, the machine has them

    def save() -> None:
        write_json(asked.json, found | {"machine": describe_machine(), "limits": LIMITS, "measured": now()})

    with tempfile.TemporaryDirectory() as folder:
        for network in asked.networks:
            name = network if asked.sustained is None else f"{network}, sustained"
            kept = found["networks"].setdefault(name, {"batches": {}})
            kept.pop("error", None)
            try:
                run(network, kept, asked, asked.work or Path(folder), save)
            except Exception as exc:  # the other networks are to be measured all the same
                kept["error"] = f"{type(exc).__name__}: {exc}"
                failed.append(network)
            save()
            print(name, kept.get("error") or json.dumps(kept["judged"]), flush=True)
    sys.exit(3 if len(failed) == len(asked.networks) else 0)


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


if __name__ == "__main__":
    main()
