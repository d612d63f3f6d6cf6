"""The backends' contract on a CUDA device, and a benchmark with them."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

import numpy as np
import pytest

from resnet_deploy.benchmarking.run import bench
from resnet_deploy.bundle.store import Bundle
from tests.helpers.contract import CUDA, IMAGES, contract, load
from tests.helpers.paths import DIGITS


@pytest.mark.parametrize("text", [*CUDA, "eager:cuda,compile", "eager:cuda,fp16,channels_last,cuda_graph"])
def test_contract(digits_bundle: Bundle, text: str) -> None:
    contract(digits_bundle, text)


@pytest.mark.fake
def test_bench_on_the_gpu(tmp_path: Path) -> None:
    backends = ("eager", "eager:cuda", "eager:cuda,fp16,channels_last")
    report = bench(
        "resnet20", weights=DIGITS, data="digits", limit=100, output=tmp_path / "b", batch="8", backend=backends, duration=0.5
    )
    assert report.passed and report.machine["gpus"]
    cuda = [result for result in report.results if result.device == "cuda"]
    assert len(cuda) == 2 and all(result.parity["top1_agreement"] > 0.99 for result in cuda)


@pytest.mark.parametrize("text", ["eager:cuda", "eager:cuda,fp16,channels_last,cuda_graph,streams=2", "onnxruntime:cuda"])
def test_trtexecs_terms(digits_bundle: Bundle, text: str) -> None:
    """The device's clock against the host's: parts are parts of the whole, and a queue is no slower than one at a time."""
    with load(digits_bundle, text) as backend:
        backend.infer(IMAGES)
        backend.bind(IMAGES)
        found = [backend.stages() for _ in range(20)][5:]
        stages = [stage for stage in found if stage is not None]
        assert len(stages) == 15 and all(min(s.enqueue_s, s.h2d_s, s.compute_s, s.d2h_s) > 0 for s in stages)
        compute_s, whole_s = statistics.median(s.compute_s for s in stages), []
        for _ in range(20):
            start = time.perf_counter()
            backend.infer(IMAGES)
            whole_s.append(time.perf_counter() - start)
        assert compute_s < statistics.median(whole_s) * 1.1
        for copies in (False, True):
            queued = backend.run_queued(0.2, uploads=copies, downloads=copies)
            assert queued is not None and queued[0] > 1
            assert queued[1] / queued[0] < statistics.median(whole_s) * 1.1
        for spin in (True, False):
            backend.spin_wait = spin
            backend.enqueue()
            backend.synchronize()
        assert np.isfinite(backend.outputs()["logits"]).all()


def test_a_figure_has_its_conditions_and_its_roof(tmp_path: Path) -> None:
    pytest.importorskip("pynvml", reason="nvidia-ml-py is not installed: the extra gpu")
    report = bench(
        "resnet20", weights=DIGITS, data="digits", output=tmp_path / "b", batch=8, backend=["eager:cuda,cuda_graph"],
        duration=3.0, measure_roof=True, streams=2,
    )  # fmt: skip
    (row,) = report.results
    assert row.settings["streams"] == 2 and row.settings["cuda_graph"] and row.throughput_images_per_s
    gpu = row.conditions and row.conditions["gpu"]
    assert gpu and gpu["before"]["memory_used_bytes"] and gpu["during"]["sm_clock_hz"] and gpu["after"]["temperature_c"]
    assert row.roofline and 0 < row.roofline["device_reached_percent"] < 100 and row.roofline["source"] == "measured"
