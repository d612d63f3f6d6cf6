"""Reports as `bench` makes them, with every part that one can have."""

from __future__ import annotations

import copy
import random
from typing import Any

GPU = "NVIDIA H200"


def latency(p50: float, spread: float = 0.03) -> dict[str, float]:
    return {"p50": p50, "p90": p50 * (1 + spread), "p99": p50 * (1 + 3 * spread), "mean": p50 * 1.01, "iqr": p50 * spread}


def samples(p50: float, spread: float = 0.03, count: int = 600, seed: int = 0) -> list[float]:
    draw = random.Random(seed)
    return [p50 * (1 + spread * draw.gauss(0, 0.74) + (2 * spread if draw.random() < 0.02 else 0)) for _ in range(count)]


def parity(loss: float, agreement: float, difference: float = 0.0) -> dict[str, Any]:
    return {
        "images": 5000, "finite": True, "max_abs_error": loss**0.5, "mean_abs_error": loss**0.5 / 9, "max_rel_error": loss**0.5,
        "cosine_mean": 1 - loss, "cosine_min": 1 - 9 * loss, "top1_agreement": agreement, "top5_agreement": agreement,
        "top1_accuracy": 0.8031 + difference, "reference_top1_accuracy": 0.8031, "accuracy_difference": difference,
        "accuracy_difference_low": difference - 0.0031, "accuracy_difference_high": difference + 0.0031, "mcnemar_p": 0.5,
    }  # fmt: skip


def roofline(precision: str, batch: int, rate: float) -> dict[str, Any]:
    flop_s = {"fp32": 67e12, "fp16": 989e12, "int8": 1979e12}[precision]
    size = {"fp32": 4, "fp16": 2, "int8": 1}[precision]
    compute_s, memory_s = 8.178e9 / flop_s, size * (28.4e6 + 25.5e6 / batch) / 4.8e12
    kernels_s, host_s = 1.22 * max(compute_s, memory_s), 150528 / 64e9
    return {
        "architecture": "resnet50", "device": GPU, "source": "NVIDIA H200 datasheet", "precision": precision, "batch": batch,
        "input": "uint8", "operations": 8178000000, "activations": 28400000, "kernels": 58, "compute_s": compute_s,
        "memory_s": memory_s, "kernels_s": kernels_s, "host_s": host_s, "bound": "memory", "device_images_per_s": 1 / kernels_s,
        "host_images_per_s": 1 / host_s, "images_per_s": 1 / max(kernels_s, host_s),
        "reached_percent": 100 * rate * max(kernels_s, host_s), "device_reached_percent": 120 * rate * kernels_s,
    }  # fmt: skip


def conditions(batch: int) -> dict[str, Any]:
    def look(clock: float, power: float, temperature: float) -> dict[str, Any]:
        return {"sm_clock_hz": clock, "memory_clock_hz": 3.201e9, "power_w": power, "temperature_c": temperature,
                "memory_used_bytes": 2.1e9, "utilization_percent": 97.0, "throttled": []}  # fmt: skip

    def spread(low: float, high: float) -> dict[str, float]:
        return {"min": low, "median": (low + high) / 2, "max": high}

    cpu = {"cores": 32, "governor": "performance", "clock_hz": spread(3.1e9, 3.7e9), "load_1min_before": 0.4,
           "load_1min_after": 1.1, "own_cores": 1.0, "other_cores": 0.05, "stolen_cores": 0.0, "threads": 34}  # fmt: skip
    gpu = {
        "name": GPU, "before": look(345e6, 77, 31), "after": look(1980e6, 512, 58),
        "during": {"sm_clock_hz": spread(1815e6, 1980e6), "power_w": spread(240, 655), "temperature_c": spread(41, 62)},
        "throttled": {"power cap": 0.11} if batch == 1024 else {}, "clock_drop": 0.08, "energy_j": 410.0, "other_processes": 0,
    }  # fmt: skip
    warnings = ["the GPU throttled: power cap in 11% of the samples"] if batch == 1024 else []
    return {"duration_s": 3.2, "cpu": cpu, "gpu": gpu, "samples": 14, "warnings": warnings, "energy_per_image_j": 0.0112}


RATES = {  # images a second at the largest batch, and the latency of batch 1
    ("eager", "cuda", "fp32"): (2900.0, 5.1e-3), ("eager:channels_last,compile", "cuda", "fp16"): (9400.0, 1.31e-3),
    ("onnxruntime", "cuda", "fp16"): (8100.0, 1.62e-3), ("tensorrt", "cuda", "fp16"): (31000.0, 0.41e-3),
    ("tensorrt", "cuda", "int8"): (58000.0, 0.29e-3), ("tensorrt:streams=2", "cuda", "int8"): (66000.0, 0.31e-3),
}  # fmt: skip
LOSS = {"fp32": (0.0, 1.0, 0.0), "fp16": (3e-7, 0.9992, 0.0002), "int8": (4e-4, 0.981, -0.0018)}


def artifact(backend: str, precision: str) -> str:
    if backend.startswith("eager"):
        return "weights.safetensors"
    return f"model.{precision}.tensorrt-11.4.0.106.sm90.plan" if backend.startswith("tensorrt") else f"model.{precision}.onnx"


def gates(precision: str, accuracy: float = 1.0) -> list[dict[str, Any]]:
    """What the gate judged: of quantized files the accuracy, of others which classes agree."""
    if precision == "int8":
        return [{"metric": "relative-accuracy", "value": accuracy, "limit": 0.99, "passed": accuracy >= 0.99}]
    return [{"metric": "top1-agreement", "value": LOSS[precision][1], "limit": 0.98, "passed": True}]


def result(backend: str, device: str, precision: str, batch: int) -> dict[str, Any]:
    highest, first_s = RATES[backend, device, precision]
    p50 = first_s + batch / highest
    eager = RATES["eager", "cuda", "fp32"]
    settings = {"cuda_graph": True, "streams": 2 if "streams" in backend else 1, "spin_wait": False, "data_transfers": True}
    return {
        "backend": backend, "device": device, "precision": precision, "batch": batch, "latency_s": latency(p50),
        "device_latency_s": latency(0.8 * p50), "images_per_s": batch / p50, "speedup": (eager[1] + batch / eager[0]) / p50,
        "samples": 600, "noisy": False, "warm": True, "parity": parity(*LOSS[precision]), "parity_data": "val/", "gate": "pass",
        "failures": [], "gates": gates(precision), "artifact": artifact(backend, precision), "size_bytes": 25_700_000,
        "threads": 32, "runtime": {"tensorrt": "11.4.0"}, "measured": "2026-11-20T10:00:00+00:00",
        "enqueue_latency_s": latency(0.02e-3), "h2d_latency_s": latency(0.13 * p50), "compute_latency_s": latency(0.78 * p50),
        "d2h_latency_s": latency(0.02 * p50),
        "host_latency_s": latency(0.93 * p50), "throughput_images_per_s": 1.18 * batch / p50,
        "roofline": roofline(precision, batch, batch / p50), "conditions": conditions(batch), "settings": settings,
    }  # fmt: skip


def scenario(name: str, **changes: Any) -> dict[str, Any]:
    metrics = {
        "samples_per_s": 61234.5, "queries": 270336, "samples": 270336, "duration_s": 60.1, "latency_p50_s": 1.1e-3,
        "latency_p90_s": 1.4e-3, "latency_p99_s": 4.2e-3, "top1_accuracy": 0.8012,
    }  # fmt: skip
    if name == "server":
        metrics |= {"target_qps": 48000.0, "latency_bound_s": 0.015}
    return {
        "backend": "tensorrt", "device": "cuda", "precision": "int8", "scenario": name, "valid": True, "reason": "",
        "error": None, "notes": [], "metrics": metrics, "threads": 32, "conditions": conditions(8),
        "log_files": [f"loadgen.tensorrt-int8.{name}.summary.txt"],
        "parity": parity(*LOSS["int8"]), "parity_data": "val/", "gate": "pass", "failures": [], "runtime": {},
        "measured": "2026-11-20T10:05:00+00:00", **changes,
    }  # fmt: skip


def profile(batch: int) -> dict[str, Any]:
    kinds = ("int8", "int8", "int8", "fp16")
    layers = [
        {"name": f"layer{1 + n // 14}.{n % 14 // 4}.conv{1 + n % 3} + bn + relu", "kind": "CaskConvolution", "precision":
         kinds[n % 4], "time_s": (1 + (37 * n) % 50) * 1e-6, "share": (1 + (37 * n) % 50) / 1300,
         "onnx": [f"/layer{1 + n // 14}/{n % 14 // 4}/conv{1 + n % 3}/Conv", f"/layer{1 + n // 14}/relu/Relu"]}
        for n in range(52)
    ]  # fmt: skip
    return {"backend": "tensorrt", "device": "cuda", "precision": "int8", "batch": batch, "runs": 50, "total_s": 1.3e-3,
            "profiled_s": 1.5e-3, "latency_s": 1.4e-3, "layers": layers, "measured": "2026-11-20T10:06:00+00:00",
            "error": None}  # fmt: skip


def broken_profile() -> dict[str, Any]:
    nothing = dict.fromkeys(("total_s", "profiled_s", "latency_s"))
    return {**profile(8), "backend": "onnxruntime", **nothing, "layers": [], "error": "RuntimeError: no profiler"}


def trtexec() -> dict[str, Any]:
    figures = [
        {"name": "GPU Compute Time", "unit": "s", "ours": 0.31e-3, "trtexec": 0.305e-3, "difference": 0.016},
        {"name": "Throughput", "unit": "images/s", "ours": None, "trtexec": 3120.0, "difference": None},
    ]
    command = "trtexec --loadEngine=model.plan --shapes=input:1x224x224x3 --useCudaGraph"
    return {"backend": "tensorrt", "device": "cuda", "precision": "int8", "batch": 1, "command": command, "settings": {},
            "ours_s": 0.31e-3, "trtexec_s": 0.305e-3, "difference": 0.016, "figures": figures, "error": None}  # fmt: skip


def full(batches: tuple[int, ...] = (1, 8, 32, 128, 512, 1024)) -> dict[str, Any]:
    """A run on a GPU with all that there can be, of six rows a batch."""
    results = [result(*candidate, batch) for batch in batches for candidate in RATES]
    results[4] |= {"noisy": True}
    results[min(10, len(results) - 2)] |= {
        "gate": "fail", "failures": ["relative-accuracy is 0.981, gate >= 0.99"], "gates": gates("int8", 0.981),
    }  # fmt: skip
    return copy.deepcopy(
        {
            "machine": {
                "cpu": "Intel(R) Xeon(R) Platinum 8480+", "cores": 32, "memory_bytes": 540 << 30, "load_1min": 0.4,
                "gpus": [{"name": GPU, "memory_bytes": 150754820096, "compute_capability": "9.0"}],
                "os": "Linux-6.8-x86_64", "python": "3.12.3", "packages": {"torch": "2.13.0", "tensorrt": "11.4.0.106"},
            },
            "model": {
                "architecture": "resnet50", "family": "ResNet", "num_classes": 1000, "parameters": 25557032, "macs": 4089284608,
                "weights": {"source": "IMAGENET1K_V2", "sha256": "11ad3fa6" * 8}, "head": {"kind": "topk", "k": 5},
                "request": {"weights": "11ad3fa6" * 8, "head": "topk:5", "input": "uint8", "max_batch": 1024},
                "input": {"name": "input", "dtype": "uint8", "shape": ["batch", 224, 224, 3]},
                "outputs": [{"name": "topk_values", "dtype": "float32", "shape": ["batch", 5]}],
            },
            "results": results,
            "warnings": [
                "the figures are not steady: latencies spread by up to 12% of their median, of which 10% is normal (tensorrt "
                "at batch 1). Differences of that size mean nothing: stop other programs and measure again"
            ],
            "scenarios": [
                *(scenario(name) for name in ("single-stream", "multi-stream", "offline", "server")),
                scenario("server", precision="fp16", valid=False, reason="Latency bound is not met",
                         notes=["lower rates need more than 100 s for enough queries: raise --min-duration"]),
                scenario("offline", backend="onnxruntime", precision="fp16", valid=False, metrics={}, log_files=[],
                         error="BackendError: CUDA out of memory", reason="BackendError: CUDA out of memory"),
            ],
            "unmeasured": [{"backend": "onnxruntime:tensorrt", "device": "cuda", "precision": "fp16", "batch": 128,
                            "error": "RuntimeException: TensorRT EP failed to build: out of memory while allocating 4 GiB"}],
            "verdicts": [
                {"kind": "knee", "severity": "advice", "rows": [3], "text": "tensorrt (cuda) int8: a batch larger than "
                 "128 does not pay; batch 1024 gives 4% more throughput for 7.6x the latency"},
                {"kind": "slower-precision", "severity": "problem", "rows": [5, 4], "text": "int8 on tensorrt:streams=2 (cuda) "
                 "is slower at batch 1 (fp16 is 1.32x as fast); use fp16 there"},
                {"kind": "copy-bound", "severity": "warning", "rows": [9], "text": "tensorrt (cuda) int8 at batch 128 spends "
                 "2.1 ms of 3.4 ms outside the device; send uint8 (a quarter of the bytes)"},
            ],
            "profiles": [profile(8), profile(128), broken_profile()],
            "trtexec": [trtexec(), {**trtexec(), "batch": 8, "figures": [], "error": "trtexec ended with 1: no such plan"}],
            "interrupted": False,
            "decision": {
                "kind": "deploy", "row": 4, "artifact": "model.int8.tensorrt-11.4.0.106.sm90.plan", "reason": None,
                "text": "Deploy model.int8.tensorrt-11.4.0.106.sm90.plan with TensorRT at batch 1024: 57,180 images/s, 20x "
                "eager, top-1 -0.18 points (95%: -0.49 to +0.13), 26 MB.",
            },
            "samples": {
                f"{one['backend']}|{one['device']}|{one['precision']}|{one['batch']}":
                {"host_s": samples(one["latency_s"]["p50"], seed=index)} for index, one in enumerate(results)
            },
        }
    )  # fmt: skip


def small(scale: float = 1.0, seed: int = 1, with_samples: bool = True, spread: float = 0.01) -> dict[str, Any]:
    """A run on a CPU of four rows, all as fast as `scale` says, in the form of before this room existed."""
    report, results = full(), []
    for index, (backend, batch) in enumerate([("eager", 1), ("onnxruntime", 1), ("eager", 8), ("onnxruntime", 8)]):
        one = result("eager", "cuda", "fp32", batch)
        p50 = scale * 1e-3 * batch / (1 + index % 2)
        old = {name: one[name] for name in ("parity", "parity_data", "gate", "failures", "threads", "measured", "warm")}
        results.append(
            {**old, "backend": backend, "device": "cpu", "precision": "fp32", "batch": batch, "latency_s": latency(p50, spread),
             "device_latency_s": latency(p50, spread), "images_per_s": batch / p50, "speedup": 1.0, "samples": 600,
             "noisy": False}
        )  # fmt: skip
    kept = {
        f"{one['backend']}|cpu|fp32|{one['batch']}": {"host_s": samples(one["latency_s"]["p50"], spread, seed=seed + index)}
        for index, one in enumerate(results)
    }
    machine = {**report["machine"], "gpus": []}
    found = {"machine": machine, "model": report["model"], "results": results, "warnings": []}
    return found | ({"samples": kept} if with_samples else {})
