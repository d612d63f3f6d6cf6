"""INT8 on the CPU, ResNet-50: our graphs against eager, FP32, and ONNX Runtime's own quantization.

    python benchmarks/int8_speed.py [--json benchmarks/results/int8_speed.json]

One process, two threads each; the candidates take turns, and in each turn a run warms up before those that are timed. The
peer's graph is what ONNX Runtime's documentation says for x86 CPUs with VNNI: pre-processed, U8 activations, S8 weights per
channel, Q/DQ, otherwise defaults. Weights and images are random: this is about speed.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from common import Limit, Row, compare, finish, parser

THREADS = 2
BATCHES = (1, 8)
CALIBRATION = 32
TIMED = {1: 5, 8: 1}  # runs of a turn; a turn's figure is their median
EAGER = Limit(bound="at least", value=4.5)
PEER = Limit(bound="at most", value=1.05)
OPENVINO = Limit(bound="at least", value=5.0)


def quantized_by_ort(fp32: Path, folder: Path, images: Any) -> Path:
    """ONNX Runtime's own for CPUs."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        left = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            image = next(self.left, None)
            return None if image is None else {"input": image[None]}

    prepared, path = folder / "prepared.onnx", folder / "ort.int8.onnx"
    quant_pre_process(fp32, prepared, skip_symbolic_shape=True)
    quantize_static(
        prepared, path, Reader(), quant_format=QuantFormat.QDQ, per_channel=True, activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )  # fmt: skip
    return path


def candidates(folder: Path, architecture: str) -> tuple[dict[str, Any], Any]:
    """Backends by name, and images for the largest batch."""
    import numpy as np

    from resnet_deploy.backends.candidate import Candidate
    from resnet_deploy.backends.eager.backend import EagerBackend
    from resnet_deploy.backends.onnxruntime.backend import OrtBackend
    from resnet_deploy.backends.openvino import OpenVinoBackend
    from resnet_deploy.models.create import load_model
    from resnet_deploy.models.deploy import DeployModel
    from resnet_deploy.pipeline.export import export
    from resnet_deploy.specs import Head, InputFormat

    loaded = load_model(architecture)
    size = loaded.preprocessing.crop
    images = np.random.default_rng(0).standard_normal((CALIBRATION, 3, size, size), np.float32)
    np.savez(folder / "images.npz", images=images)
    bundle = export(
        architecture, folder / "bundle", max_batch=max(BATCHES), precision=["int8"], calibration=folder / "images.npz",
        calibration_method="max", other_layers="fp32",
    )  # fmt: skip
    fp32 = bundle.artifact("model.fp32.onnx")
    model = DeployModel(loaded.network, head=Head(), input_format=InputFormat.FLOAT, preprocessing=loaded.preprocessing)
    ort, openvino = Candidate(backend="onnxruntime"), Candidate(backend="openvino")
    found = {
        "eager FP32": EagerBackend(model, Candidate(backend="eager"), threads=THREADS),
        "ONNX Runtime FP32": OrtBackend(fp32, ort, threads=THREADS),
        "ours INT8, cpu": OrtBackend(bundle.artifact("model.int8-cpu.onnx"), ort, threads=THREADS),
        "ONNX Runtime's own INT8": OrtBackend(quantized_by_ort(fp32, folder, images), ort, threads=THREADS),
        "OpenVINO FP32": OpenVinoBackend(fp32, openvino, threads=THREADS),
        "ours INT8, tensorrt, in OpenVINO": OpenVinoBackend(bundle.artifact("model.int8.onnx"), openvino, threads=THREADS),
    }
    return found, images[: max(BATCHES)]


def turn(backend: Any, images: Any) -> float:
    """Seconds of a run, the batch being bound."""
    backend.bind(images)
    taken = []
    for _ in range(TIMED[len(images)] + 1):
        start = time.perf_counter()
        backend.enqueue()
        backend.synchronize()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken[1:])


def take_turns(rounds: int, architecture: str) -> dict[str, list[float]]:
    samples: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        backends, images = candidates(Path(folder), architecture)
        names = list(backends)
        for batch in BATCHES:
            for number in range(rounds):
                first = number % len(names)
                for name in names[first:] + names[:first]:
                    samples.setdefault(f"{name}, batch {batch}", []).append(turn(backends[name], images[:batch]))
            for name in names:
                taken_s = statistics.median(samples[f"{name}, batch {batch}"])
                print(f"batch {batch}  {name:33s} {taken_s * 1e3:7.1f} ms", flush=True)
    return samples


def rows(samples: dict[str, list[float]]) -> list[Row]:
    found = []
    for batch in BATCHES:

        def of(name: str, batch: int = batch) -> list[float]:
            return samples[f"{name}, batch {batch}"]

        ours, openvino = of("ours INT8, cpu"), of("ours INT8, tensorrt, in OpenVINO")
        found += [
            compare(f"batch {batch}: ours, cpu; faster than eager", ours, of("eager FP32"), speedup=True, limit=EAGER),
            compare(f"batch {batch}: ours, cpu; faster than ONNX Runtime FP32", ours, of("ONNX Runtime FP32"), speedup=True),
            compare(f"batch {batch}: ours, cpu, against ONNX Runtime's own", ours, of("ONNX Runtime's own INT8"), limit=PEER),
            compare(
                f"batch {batch}: ours, tensorrt, in OpenVINO; faster than eager", openvino, of("eager FP32"),
                speedup=True, limit=OPENVINO,
            ),
            compare(
                f"batch {batch}: ours, tensorrt, in OpenVINO; faster than its FP32", openvino, of("OpenVINO FP32"), speedup=True
            ),
        ]  # fmt: skip
    return found


def main() -> None:
    made = parser(__doc__, rounds=15)
    made.add_argument("--architecture", default="resnet50")
    options = made.parse_args()
    if hasattr(os, "sched_setaffinity") and len(cores := sorted(os.sched_getaffinity(0))) > THREADS:
        os.sched_setaffinity(0, cores[:THREADS])
    samples = take_turns(options.rounds, options.architecture)
    print()
    finish("int8_speed", rows(samples), samples, options, threads=THREADS, batches=BATCHES, architecture=options.architecture)


if __name__ == "__main__":
    main()
