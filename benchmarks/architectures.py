"""What a thousand layers cost, and whether eager speed is torchvision's.

    python benchmarks/architectures.py [--json benchmarks/results/architectures.json]

Each deep network is exported, verified on random images, parsed and built by TensorRT-RTX (which needs no GPU for that) in a
process of its own. Eager networks take turns with torchvision's, same weights, batch 1.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

from common import Limit, Row, alone, arguments, compare, finish, fresh

DEEP = ("resnet1202", "preact_resnet1001")
SHALLOW = "resnet110"
SAME = ("resnet18", "resnet50", "resnext50_32x4d", "wide_resnet50_2")
LINEAR = Limit(bound="at most", value=1.5)
WHOLE = Limit(bound="at most", value=240)
MEMORY = Limit(bound="at most", value=3e9)
EAGER = Limit(bound="within", value=0.03)


def through(name: str, folder: Path) -> dict[str, float]:
    """Seconds of each step; imports are not timed."""
    import onnxruntime  # noqa: F401
    import onnxscript  # noqa: F401 (the exporter imports it late)
    import tensorrt_rtx as trt

    from resnet_deploy.pipeline.export import export
    from resnet_deploy.pipeline.verify import verify

    marks = [time.perf_counter()]
    bundle = export(name, folder / "bundle", max_batch=8)
    marks.append(time.perf_counter())
    (verdict,) = verify(bundle, "random:8")
    if verdict.failures:
        raise RuntimeError(f"{name}: {verdict.failures}")
    marks.append(time.perf_counter())
    builder = trt.Builder(trt.Logger(trt.Logger.ERROR))
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, trt.Logger(trt.Logger.ERROR))
    if not parser.parse_from_file(str(bundle.artifact("model.fp32.onnx"))):
        raise RuntimeError(str(parser.get_error(0)))
    marks.append(time.perf_counter())
    profile, config = builder.create_optimization_profile(), builder.create_builder_config()
    profile.set_shape("input", (1, 3, 32, 32), (2, 3, 32, 32), (8, 3, 32, 32))
    config.add_optimization_profile(profile)
    if builder.build_serialized_network(network, config) is None:
        raise RuntimeError(f"TensorRT-RTX built nothing of {name}")
    marks.append(time.perf_counter())
    steps = ("export", "verify", "parse", "build")
    return {step: end - start for step, start, end in zip(steps, marks, marks[1:], strict=False)}


def layers(name: str) -> int:
    return int("".join(filter(str.isdigit, name)))


def deep(rounds: int, samples: dict[str, list[float]]) -> list[Row]:
    for turn in range(rounds):
        for name in (SHALLOW, *DEEP):
            with tempfile.TemporaryDirectory() as folder:
                done = fresh([sys.executable, __file__, "--run", name, folder])
            found = json.loads(done.stdout.splitlines()[-1]) | {"process": done.wall_s, "peak": done.peak_bytes}
            for step, value in found.items():
                samples.setdefault(f"{name}.{step}", []).append(value)
            print(f"round {turn + 1}: {name:18s} {done.wall_s:5.0f} s, {done.peak_bytes / 1e9:.2f} GB", flush=True)
    rows = []
    for name in DEEP:
        per_layer, peer = ([value / layers(n) for value in samples[f"{n}.export"]] for n in (name, SHALLOW))
        limit = LINEAR if name == "resnet1202" else None
        rows.append(compare(f"export of {name} a layer, against {SHALLOW}'s", per_layer, peer, limit=limit))
    for name in DEEP:
        for step in ("export", "verify", "parse", "build"):
            rows.append(alone(f"{name}: {step}", statistics.median(samples[f"{name}.{step}"]), unit="s"))
        rows.append(alone(f"{name}: all of it, with imports", max(samples[f"{name}.process"]), unit="s", limit=WHOLE))
        rows.append(alone(f"{name}: peak memory", max(samples[f"{name}.peak"]), unit="bytes", limit=MEMORY))
    return rows


def eager(rounds: int, samples: dict[str, list[float]]) -> list[Row]:
    """Rounds of one inference each, in an order that alternates."""
    import torch

    from resnet_deploy.models.create import create_model

    sys.path.insert(0, str(Path(__file__).parent.parent))
    from tests.helpers.peers import torchvision

    peers = torchvision().models
    rows = []
    for name in SAME:
        ours = create_model(name)
        peer = getattr(peers, name)().eval()
        peer.load_state_dict(ours.state_dict())
        x, sides = torch.randn(1, 3, 224, 224), {"ours": ours, "torchvision": peer}
        with torch.inference_mode():
            for turn in range(-3, rounds):  # three to warm up
                for side in sorted(sides, reverse=bool(turn % 2)):
                    start = time.perf_counter()
                    sides[side](x)
                    if turn >= 0:
                        samples.setdefault(f"{name}.{side}", []).append(time.perf_counter() - start)
        found = [samples[f"{name}.{side}"] for side in ("ours", "torchvision")]
        rows.append(compare(f"eager {name}, batch 1, against torchvision", *found, limit=EAGER))
    return rows


def main() -> None:
    if sys.argv[1:2] == ["--run"]:  # one network, started by deep
        print(json.dumps(through(sys.argv[2], Path(sys.argv[3]))))
        return
    options = arguments(__doc__, rounds=60)
    samples: dict[str, list[float]] = {}
    rows = [*eager(options.rounds, samples), *deep(max(1, options.rounds // 30), samples)]
    finish("architectures", rows, samples, options)


if __name__ == "__main__":
    main()
