"""How near the roof ResNet-50 comes on a GPU: throughput with images and answers on it, and latency at batch 1.

    python benchmarks/gpu_roof.py [--json benchmarks/results/gpu/gpu_roof.json]

Plans of raw pixels (uint8 in, logits out) in INT8 and FP16, with one and with two streams, over batch sizes. The roof is the
published one of this GPU, and where the table has none, the one that a large copy and large matrix products reach. The file
is written after each batch size, and what is in it is not measured again. `--cpu` goes through the same motions without a GPU.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from common import Limit, Row, alone, finish, parser
from gpu import build_plans, bundle_of

import resnet_deploy as rd
from resnet_deploy._machine import describe_machine
from resnet_deploy.benchmarking.roofline.devices import find_ceiling

BACKENDS = (
    "tensorrt",
    "tensorrt:streams=2",
    "tensorrt-rtx",
    "tensorrt-rtx:streams=2",
    "eager:cuda,fp16,channels_last,cuda_graph",
)
BATCHES = (128, 1, 512, 1024, 256, 32, 8)  # what is most wanted first
# Of an H200. MLPerf Inference has 96,029 images a second of it, and the roofline allows 138,000.
THROUGHPUT = Limit(bound="at least", value=60_000)
LATENCY = Limit(bound="at most", value=0.35e-3)
MLPERF, ROOF = 96_029, 138_000
KEPT = (
    "backend", "device", "precision", "batch", "throughput_images_per_s", "roofline", "compute_latency_s", "settings",
    "conditions", "runtime",
)  # fmt: skip


def measure(asked: argparse.Namespace, work: Path, kept: list[dict[str, Any]], save: Callable[[], None]) -> dict[str, str]:
    """Measure the batch sizes that are missing, saving each; what was left out, and why.

    Images are `bench`'s own random ones: none that were calibrated on.
    """
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    batches = tuple(int(size) for size in asked.batch.split(","))
    backends = asked.backend or (("onnxruntime",) if asked.cpu else BACKENDS)
    precision = "fp32" if asked.cpu else "fp16,int8"
    missing = [size for size in batches if size not in {row["batch"] for row in kept}]
    if not missing:
        return {}
    bundle = bundle_of(asked.network, work, max(batches), precision)
    left_out = build_plans(bundle, backends, precision, batches)
    roof = {"roof": asked.roof} if asked.roof else {"measure_roof": find_ceiling(name) is None}
    for size in missing:
        report = rd.bench(
            bundle, backend=backends, batch=size, precision=precision, duration=asked.duration, **roof
        ).to_dict()  # fmt: skip
        kept += [{name: row[name] for name in KEPT} for row in report["results"]]
        left_out |= {f"{row['backend']}:{row['precision']}": row["error"] for row in report["unmeasured"]}
        save()
    return left_out


def rows(results: list[dict[str, Any]]) -> list[Row]:
    """Of each precision the best throughput and the least latency at the least batch, with their share of the roof."""
    found = []
    for precision in dict.fromkeys(row["precision"] for row in results):
        of = [row for row in results if row["precision"] == precision]
        int8 = precision == "int8"
        best = max(of, key=_images_per_s)
        what = f"{precision}: {best['backend']}, batch {best['batch']}"
        found.append(alone(f"{what}: images/s", _images_per_s(best), unit="count", limit=THROUGHPUT if int8 else None))
        found += _share(f"{what}: of the roof", [best])
        if int8:
            found.append(alone(f"{what}: of MLPerf's {MLPERF:,}", _images_per_s(best) / MLPERF, unit="fraction"))
            found.append(alone(f"{what}: of an H200's roof, {ROOF:,}", _images_per_s(best) / ROOF, unit="fraction"))
        least = min(row["batch"] for row in of)
        first = min((row for row in of if row["batch"] == least), key=lambda row: float(row["compute_latency_s"]["p50"]))
        what = f"{precision}: {first['backend']}, batch {least}"
        compute_s = first["compute_latency_s"]["p50"]
        found.append(alone(f"{what}: device time", compute_s, unit="s", limit=LATENCY if int8 else None))
        found += _share(f"{what}: of the roof", [first])
    return found


def _images_per_s(row: dict[str, Any]) -> float:
    return float(row["throughput_images_per_s"] or row["batch"] / row["compute_latency_s"]["p50"])


def _share(what: str, rows: Iterable[dict[str, Any]]) -> list[Row]:
    return [alone(what, row["roofline"]["device_reached_percent"] / 100, unit="fraction") for row in rows if row["roofline"]]


def main() -> None:
    made = parser(__doc__, rounds=1)
    made.add_argument("--network", default="resnet50")
    made.add_argument("--batch", default=",".join(map(str, BATCHES)))
    made.add_argument("--backend", action="append", help="in place of the known ones; may be repeated")
    made.add_argument("--roof", help="published ceilings in place of those of the GPU that is here")
    made.add_argument("--work", type=Path, metavar="DIR", help="where the bundle is kept [default: until the end]")
    made.add_argument("--duration", type=float, default=1.0, help="seconds of sampling, each candidate and batch")
    made.add_argument("--cpu", action="store_true")
    asked = made.parse_args()
    known = json.loads(asked.json.read_text())["settings"] if asked.json is not None and asked.json.is_file() else {}
    results, left_out = known.get("results", []), known.get("left_out", {})

    def save(*, quiet: bool = True) -> None:
        gpus = describe_machine()["gpus"]
        finish("gpu_roof", rows(results), {}, asked, quiet=quiet, results=results, left_out=left_out, gpus=gpus)

    with tempfile.TemporaryDirectory() as folder:
        try:
            left_out |= measure(asked, asked.work or Path(folder), results, save)
        except rd.DeployError as exc:
            print(f"not measured: {exc}", file=sys.stderr)
            sys.exit(3)
    print(json.dumps(left_out, indent=1) if left_out else "")
    save(quiet=False)


if __name__ == "__main__":
    main()
