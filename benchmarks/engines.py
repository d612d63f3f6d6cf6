"""What `rd.build` costs over the bare builder calls on the same graph: ResNet-50 through TensorRT-RTX, which needs no GPU.

    python benchmarks/engines.py [--json benchmarks/results/engines.json]

Every build is a new process; ours and the peer take turns. Ours is the whole call: hashes, lock, progress, the layer report
and the proof of precision, the plan and the manifest on disk. The peer parses, builds with the same settings and writes the
plan. Times start after the imports.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path

from common import Limit, Row, arguments, compare, finish, fresh

OVERHEAD = Limit(bound="at most", value=1.1)
MEMORY = Limit(bound="at most", value=1.2)
PRECISIONS = ("fp32", "int8")
TARGET, PROFILE = "sm86", (1, 8, 32)


def ours(bundle: Path, precision: str) -> float:
    import onnx  # noqa: F401 (otherwise imported late; here it is not timed)
    import tensorrt_rtx  # noqa: F401

    import resnet_deploy
    from resnet_deploy.pipeline.build import build

    start = time.perf_counter()
    build(bundle, precision=precision, flavour="tensorrt-rtx", compute_capability=TARGET, batch=":".join(map(str, PROFILE)))
    assert resnet_deploy.Bundle.open(bundle).manifest.artifacts
    return time.perf_counter() - start


def by_hand(bundle: Path, precision: str) -> float:
    """The peer: the calls of TensorRT's guide."""
    import tensorrt_rtx as trt

    start = time.perf_counter()
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(bundle / f"model.{precision}.onnx"))
    tensor = network.get_input(0)
    shape = tuple(tensor.shape)[1:]
    profile = builder.create_optimization_profile()
    profile.set_shape(tensor.name, *((size, *shape) for size in PROFILE))
    config = builder.create_builder_config()
    config.add_optimization_profile(profile)
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.clear_flag(trt.BuilderFlag.TF32)
    config.num_compute_capabilities = 1
    config.set_compute_capability(getattr(trt.ComputeCapability, TARGET.upper()), 0)
    (bundle / "by_hand.plan").write_bytes(builder.build_serialized_network(network, config))
    return time.perf_counter() - start


WAYS = {"ours": ours, "by_hand": by_hand}


def prepare(folder: Path) -> Path:
    """A ResNet-50's bundle with its graphs, made by another process; random weights build as trained ones do."""
    options = "--precision fp32,int8 --int8-target tensorrt --calibration random:16 --calibration-method max"
    fresh([sys.executable, "-m", "resnet_deploy.cli", "export", "resnet50", "-o", str(folder / "resnet50"), *options.split()])
    return folder / "resnet50"


def take_turns(bundle: Path, rounds: int) -> dict[str, list[float]]:
    samples: dict[str, list[float]] = {}
    for turn in range(rounds):
        for precision in PRECISIONS:
            for way in sorted(WAYS, reverse=bool(turn % 2)):
                with tempfile.TemporaryDirectory() as folder:
                    copy = shutil.copytree(bundle, Path(folder) / "b")
                    os.sync()  # or the copy's writing is measured too
                    done = fresh([sys.executable, __file__, "--run", way, str(copy), precision])
                taken_s = json.loads(done.stdout.splitlines()[-1])
                samples.setdefault(f"{precision}.{way}.s", []).append(taken_s)
                samples.setdefault(f"{precision}.{way}.peak", []).append(done.peak_bytes)
                print(f"round {turn + 1}: {precision} {way:8s} {taken_s:5.2f} s, {done.peak_bytes / 1e9:.2f} GB", flush=True)
    return samples


def rows(samples: dict[str, list[float]]) -> list[Row]:
    found = []
    for precision in PRECISIONS:
        times, peaks = ([samples[f"{precision}.{way}.{what}"] for way in WAYS] for what in ("s", "peak"))
        found.append(compare(f"building the {precision} plan", *times, limit=OVERHEAD))
        found.append(compare(f"peak memory, {precision}", *peaks, unit="bytes", limit=MEMORY))
    return found


def main() -> None:
    if sys.argv[1:2] == ["--run"]:  # one build, started by take_turns
        print(json.dumps(WAYS[sys.argv[2]](Path(sys.argv[3]), sys.argv[4])))
        return
    options = arguments(__doc__, rounds=7)
    with tempfile.TemporaryDirectory() as folder:
        samples = take_turns(prepare(Path(folder)), options.rounds)
    print()
    finish("engines", rows(samples), samples, options, target=TARGET, profile=PROFILE)


if __name__ == "__main__":
    main()
