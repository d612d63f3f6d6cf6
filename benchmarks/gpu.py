"""Every network in FP32, FP16 and INT8 on a GPU: parity against eager, latency and throughput, beside eager, torch.compile
and ONNX Runtime CUDA in the same run.

    python benchmarks/gpu.py --out benchmarks/results/gpu [NETWORK...]

digits is the trained ResNet-20 on real images; the others have random weights and images: their speed is real. A backend
that does not work on this machine is left out, and its message is kept. One JSON file a network, written when it is done.
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
from pathlib import Path
from typing import Any

import resnet_deploy as rd
from resnet_deploy._machine import describe_machine
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.backends.table import BACKENDS
from resnet_deploy.bundle.opened import OpenedBundle

DIGITS = Path(__file__).parent.parent / "examples" / "digits" / "resnet20.safetensors"
NETWORKS = ("digits", "resnet50", "resnet18", "resnet101", "resnet152", "resnext50_32x4d", "preact_resnet50")
GPU = (
    "eager:cuda", "eager:cuda,fp16,channels_last", "eager:cuda,fp16,channels_last,cuda_graph",
    "eager:cuda,fp16,channels_last,compile", "onnxruntime:cuda", "onnxruntime:tensorrt", "tensorrt", "tensorrt-rtx",
)  # fmt: skip
CPU = ("eager", "onnxruntime")
PEER = "eager:channels_last,cuda_graph"  # as results name it: FP16 with CUDA graphs
LIMITS = {"int8 over eager fp16, batch 128": 2.5, "int8 batch 1, s": 0.35e-3, "device time over a bare loop": 0.02}


def of(network: str) -> dict[str, Any]:
    """What is exported and on what it is judged."""
    if network == "digits":
        return {"model": "resnet20", "weights": DIGITS, "data": "digits", "calibration": "digits:train", "input": "uint8"}
    return {"model": network, "data": "random:64", "calibration": "random:32", "calibration_method": "max"}


def working(backends: tuple[str, ...], folder: Path) -> tuple[list[str], dict[str, str]]:
    """Backends that can run the digits network here, and what the others said."""
    found, refused = [], {}
    for text in backends:
        try:
            measure("digits", [text], folder / "probe", batches=(1,), duration_s=0.05, precisions="fp32")
            found.append(text)
        except Exception as exc:  # whatever a runtime raises is what is to be recorded
            refused[text] = f"{type(exc).__name__}: {exc}"
            print(f"left out: {text}: {refused[text]}", flush=True)
    return found, refused


def measure(
    network: str, backends: list[str], folder: Path, *, batches: tuple[int, ...], duration_s: float, precisions: str
) -> dict[str, Any]:
    given = of(network)
    report = rd.bench(
        given.pop("model"), output=folder / network, backend=backends, batch=batches, duration=duration_s,
        precision=precisions, max_batch=max(32, *batches), **given,
    )  # fmt: skip
    return report.to_dict()


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


def judged(report: dict[str, Any]) -> dict[str, Any]:
    """The limits that this network's figures can be held to."""
    latency = {
        (r["backend"], r["precision"], r["batch"]): r["device_latency_s"]["p50"] for r in report["results"]
    }  # fmt: skip
    found: dict[str, Any] = {}
    for backend in [row.name for row in BACKENDS.values() if row.runs == "plan"]:
        peer, ours = latency.get((PEER, "fp16", 128)), latency.get((backend, "int8", 128))
        if peer and ours:
            found[f"{backend}: int8 over eager fp16 with CUDA graphs, batch 128"] = peer / ours
        if (backend, "int8", 1) in latency:
            found[f"{backend}: int8 batch 1, device s"] = latency[backend, "int8", 1]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NETWORKS, metavar="NETWORK")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch", default="1,8,32,128")
    parser.add_argument("--duration", type=float, default=1.0, help="seconds of sampling, each candidate and batch")
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    batches = tuple(int(size) for size in options.batch.split(","))
    with tempfile.TemporaryDirectory() as folder:
        backends, refused = working(CPU if options.cpu else GPU, Path(folder))
        about = {"machine": describe_machine(), "left_out": refused, "limits": LIMITS}
        (options.out / "backends.json").write_text(json.dumps({**about, "working": backends}, indent=1))
        for network in options.networks if backends else ():
            report: dict[str, Any] = {"benchmark": f"gpu_{network}", "measured": now(), **about}
            try:
                report |= measure(
                    network, backends, Path(folder), batches=batches, duration_s=options.duration, precisions="fp32,fp16,int8"
                )
                report["judged"] = judged(report)
                report["bare_loop"] = {
                    f"{text}:int8, batch {size}": bare_loop(Path(folder) / network, f"{text}:int8", size)
                    for text in backends if Candidate.parse(text).row.runs == "plan" for size in (1, batches[-1])
                }  # fmt: skip
            except Exception as exc:  # the other networks are to be measured all the same
                report["error"] = f"{type(exc).__name__}: {exc}"
            (options.out / f"{network}.json").write_text(json.dumps(report, indent=1))
            print(network, report.get("error") or json.dumps(report["judged"]), flush=True)
    sys.exit(0 if backends else 3)


def now() -> str:
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


if __name__ == "__main__":
    main()
