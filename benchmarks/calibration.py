"""What calibrating costs, ResNet-50 at 224 pixels: against running the FP32 graph over the same images, and in memory.

    python benchmarks/calibration.py [--json benchmarks/results/calibration.json]

Every run is a new process; ours and the peer take turns. Ours is `observe` and the ranges by entropy, the slowest method;
the peer is an ONNX Runtime session of the same graph that runs the images at batch 8. Imports and the making of the images
are not timed. For the memory the images are made on the way, as a folder of files would be read.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from common import Limit, Row, alone, compare, finish, fresh, parser

BATCH = 8
SIZE = 224
METHOD = "entropy"
COST = Limit(bound="at most", value=2.5)
MEMORY = Limit(bound="at most", value=1.5e9)


def image(number: int) -> Any:
    """Smooth patches and noise, normalized: float32 (3, 224, 224)."""
    import numpy as np

    rng = np.random.default_rng(number)
    patches = rng.standard_normal((3, 14, 14), np.float32).repeat(16, axis=1).repeat(16, axis=2)
    return patches + 0.3 * rng.standard_normal((3, SIZE, SIZE), np.float32)


def batches(count: int) -> Callable[[int], Iterator[Any]]:
    """Images made on the way, as `observe` takes them."""
    import numpy as np

    def made(size: int) -> Iterator[Any]:
        for start in range(0, count, size):
            yield np.stack([image(number) for number in range(start, min(count, start + size))])

    return made


def exported(path: Path, _: int) -> dict[str, float]:
    import shutil

    from resnet_deploy.pipeline.export import export

    with tempfile.TemporaryDirectory() as folder:
        bundle = export("resnet50", Path(folder) / "bundle", max_batch=BATCH)
        shutil.copy(bundle.artifact("model.fp32.onnx"), path)
    return {}


def calibrate(path: Path, count: int) -> dict[str, float]:
    """Ours: a session, a pass, histograms and ranges."""
    import onnxruntime  # noqa: F401 (imported late otherwise)

    from resnet_deploy.precision import Graph, observe

    (images,) = batches(count)(count)
    graph = Graph.read(path)
    start = time.perf_counter()
    observer = observe(graph, lambda size: (images[at : at + size] for at in range(0, count, size)))
    observed = time.perf_counter()
    observer.calibration(METHOD)
    return {"observe": observed - start, "ranges": time.perf_counter() - observed, "all": time.perf_counter() - start}


def forward(path: Path, count: int) -> dict[str, float]:
    """The peer: the answers alone."""
    import onnxruntime

    (images,) = batches(count)(count)
    start = time.perf_counter()
    session = onnxruntime.InferenceSession(path)
    for at in range(0, count, BATCH):
        session.run(None, {"input": images[at : at + BATCH]})
    return {"all": time.perf_counter() - start}


def stream(path: Path, count: int) -> dict[str, float]:
    """Ours, for its memory."""
    from resnet_deploy.precision import Graph, observe

    start = time.perf_counter()
    observe(Graph.read(path), batches(count)).calibration(METHOD)
    return {"all": time.perf_counter() - start}


WAYS = {"exported": exported, "calibrate": calibrate, "forward": forward, "stream": stream}


def run(way: str, path: Path, count: int) -> dict[str, float]:
    """In a process of its own: seconds by step, and `peak` bytes."""
    done = fresh([sys.executable, __file__, "--run", way, str(path), str(count)])
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1]) | {"peak": float(done.peak_bytes)}
    print(f"{way:10s} {count:5d} images  " + "  ".join(f"{name} {value:.4g}" for name, value in found.items()), flush=True)
    return found


def take(rounds: int, count: int, many: int) -> dict[str, list[float]]:
    samples: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        run("exported", path, 0)
        for turn in range(rounds):
            for way in ("calibrate", "forward")[:: 1 if turn % 2 else -1]:
                for name, value in run(way, path, count).items():
                    samples.setdefault(f"{way}.{name}", []).append(value)
        for number in (count, many):
            for name, value in run("stream", path, number).items():
                samples.setdefault(f"stream{number}.{name}", []).append(value)
    return samples


def rows(samples: dict[str, list[float]], count: int, many: int) -> list[Row]:
    ours, peer = samples["calibrate.all"], samples["forward.all"]
    return [
        compare(f"calibrate {count} images ({METHOD}) against running the FP32 graph on them", ours, peer, limit=COST),
        compare("of it: the pass and its histograms", samples["calibrate.observe"], peer),
        alone(f"of it: the ranges by {METHOD}", sum(samples["calibrate.ranges"]) / len(ours), unit="s"),
        *(
            alone(f"peak memory, {number} images", max(samples[f"stream{number}.peak"]), unit="bytes", limit=MEMORY)
            for number in (count, many)
        ),
    ]


def main() -> None:
    if sys.argv[1:2] == ["--run"]:  # started by `run`
        print(json.dumps(WAYS[sys.argv[2]](Path(sys.argv[3]), int(sys.argv[4]))))
        return
    made = parser(__doc__, rounds=5)
    made.add_argument("--images", type=int, default=128)
    made.add_argument("--many", type=int, default=1024, help="images of the second look at the memory")
    options = made.parse_args()
    samples = take(options.rounds, options.images, options.many)
    print()
    finish(
        "calibration", rows(samples, options.images, options.many), samples, options, images=options.images,
        many=options.many, method=METHOD, batch=BATCH,
    )  # fmt: skip


if __name__ == "__main__":
    main()
