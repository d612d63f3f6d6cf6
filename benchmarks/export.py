"""What a checked export costs: ours against `torch.onnx.export` with the same checks written by hand, ResNet-50.

    python benchmarks/export.py [--json benchmarks/results/export.json]

Every export is a new process; the three take turns. Times start after the imports; those of the whole process stand
beside them. The checks: onnx.checker with shape inference, then ONNX Runtime and eager at batch 1, 2, 7 and 32.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common import Limit, Row, alone, arguments, compare, finish, fresh

BATCHES = (1, 2, 7, 32)
OPSET = 20
OVERHEAD = Limit(bound="at most", value=1.3)
MEMORY = Limit(bound="at most", value=1.6e9)


class Clock:
    """Marks since the clock was made, in seconds."""

    def __init__(self) -> None:
        self.marks: dict[str, float] = {}
        self._start = time.perf_counter()

    def mark(self, name: str) -> None:
        self.marks[name] = time.perf_counter() - self._start


def by_hand(folder: Path) -> dict[str, float]:
    """The peer: what a careful user writes without this package, on the same network."""
    import numpy as np
    import onnx
    import onnxruntime
    import onnxscript  # noqa: F401 (the exporter imports it late; here it is not timed)
    import torch

    from resnet_deploy.models.create import create_model

    clock, path = Clock(), folder / "model.onnx"
    network = create_model("resnet50")
    clock.mark("load")
    program = torch.onnx.export(
        network, (torch.zeros(2, 3, 224, 224),), dynamo=True, opset_version=OPSET, verbose=False,
        dynamic_shapes=({0: torch.export.Dim("batch", min=1, max=max(BATCHES))},), input_names=["input"],
        output_names=["logits"],
    )  # fmt: skip
    program.save(path, external_data=False)
    clock.mark("export")
    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(path)
    for batch in BATCHES:
        images = np.random.default_rng(batch).standard_normal((batch, 3, 224, 224), np.float32)
        with torch.inference_mode():
            expected = network(torch.from_numpy(images)).numpy()
        found = session.run(None, {"input": images})[0]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4 * np.abs(expected).max())
    clock.mark("end")
    return clock.marks


def export_onnx(folder: Path) -> dict[str, float]:
    """The library's function: one checked file."""
    import onnxruntime  # noqa: F401 (as in the peer, not timed)
    import onnxscript  # noqa: F401

    from resnet_deploy.models.create import load_model
    from resnet_deploy.models.deploy import DeployModel
    from resnet_deploy.pipeline.onnx_export import export_onnx
    from resnet_deploy.specs import Head, InputFormat

    clock, ends = Clock(), {"export": "load", "check": "export"}  # where a step begins, another ends
    loaded = load_model("resnet50")
    model = DeployModel(loaded.network, head=Head(), input_format=InputFormat.FLOAT, preprocessing=loaded.preprocessing)
    export_onnx(
        model, folder / "model.onnx", max_batch=max(BATCHES), opset=OPSET,
        step=lambda what: clock.mark(ends.get(what, what)),
    )  # fmt: skip
    clock.mark("end")
    return clock.marks


def bundle(folder: Path) -> dict[str, float]:
    """The whole command: weights, manifest and hashes beside the checked file."""
    import onnxruntime  # noqa: F401
    import onnxscript  # noqa: F401

    import resnet_deploy
    import resnet_deploy.pipeline.onnx_export  # otherwise imported late; here it is not timed

    clock = Clock()
    resnet_deploy.export("resnet50", folder / "resnet50", max_batch=max(BATCHES), opset=OPSET)
    clock.mark("end")
    return clock.marks


WAYS: dict[str, Callable[[Path], dict[str, float]]] = {"by_hand": by_hand, "export_onnx": export_onnx, "bundle": bundle}


def take_turns(rounds: int) -> dict[str, dict[str, list[float]]]:
    """Of each way and round: marks (seconds after the imports), `process` (seconds) and `peak` (bytes)."""
    taken: dict[str, dict[str, list[float]]] = {way: {} for way in WAYS}
    names = list(WAYS)
    for turn in range(rounds):
        for way in names[turn % 3 :] + names[: turn % 3]:
            with tempfile.TemporaryDirectory() as folder:
                done = fresh([sys.executable, __file__, "--run", way, folder])
            marks = json.loads(done.stdout.splitlines()[-1])
            for name, value in {**marks, "process": done.wall_s, "peak": done.peak_bytes}.items():
                taken[way].setdefault(name, []).append(value)
            print(f"round {turn + 1}: {way:11s} {marks['end']:5.1f} s, {done.peak_bytes / 1e9:.2f} GB", flush=True)
    return taken


def spans(marks: dict[str, list[float]], start: str, end: str) -> list[float]:
    return [b - a for a, b in zip(marks[start], marks[end], strict=True)]


def rows(taken: dict[str, dict[str, list[float]]]) -> list[Row]:
    hand, ours, whole = (taken[way] for way in WAYS)
    return [
        compare("`export_onnx`, after imports", spans(ours, "load", "end"), spans(hand, "load", "end"), limit=OVERHEAD),
        compare("`export_onnx`, whole process", ours["process"], hand["process"], limit=OVERHEAD),
        compare("`export` into a bundle, after imports", whole["end"], hand["end"], limit=OVERHEAD),
        compare("`export` into a bundle, whole process", whole["process"], hand["process"], limit=OVERHEAD),
        compare("of it: export and save", spans(ours, "load", "export"), spans(hand, "load", "export")),
        compare("of it: checks", spans(ours, "export", "end"), spans(hand, "export", "end")),
    ]


def memory(taken: dict[str, dict[str, list[float]]]) -> list[Row]:
    """Peak resident memory of the whole process; the limit is on the largest of all rounds."""
    peaks = {way: taken[way]["peak"] for way in WAYS}
    return [
        alone("peak memory of `export_onnx`, largest", max(peaks["export_onnx"]), unit="bytes", limit=MEMORY),
        alone("peak memory of `export` into a bundle, largest", max(peaks["bundle"]), unit="bytes", limit=MEMORY),
        compare("peak memory of `export_onnx`", peaks["export_onnx"], peaks["by_hand"], unit="bytes"),
    ]


def main() -> None:
    if sys.argv[1:2] == ["--run"]:  # a round of ours or the peer, started by take_turns
        print(json.dumps(WAYS[sys.argv[2]](Path(sys.argv[3]))))
        return
    options = arguments(__doc__, rounds=3)
    taken = take_turns(options.rounds)
    print()
    samples = {f"{way}.{name}": values for way, marks in taken.items() for name, values in marks.items()}
    finish("export", rows(taken) + memory(taken), samples, options, batches=BATCHES, opset=OPSET)


if __name__ == "__main__":
    main()
