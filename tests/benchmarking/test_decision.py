"""What to deploy: which row is chosen, what is said of it, and every reason for which there is none."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_deploy.benchmarking.decision import TOO_NOISY, beats, decide, uncertainty
from resnet_deploy.benchmarking.report import Decision, Result
from resnet_deploy.parity.gates import GateCheck
from tests.helpers.results import latency, row

LABELLED = {"accuracy_difference": -0.0033, "accuracy_difference_low": -0.0125, "accuracy_difference_high": 0.0059}


def eager(p50_ms: float, **changes: Any) -> Result:
    return row(p50_ms, backend="eager", artifact="weights.safetensors", **changes)


def file(p50_ms: float, precision: str = "fp32", **changes: Any) -> Result:
    return row(p50_ms, precision=precision, **{"artifact": f"model.{precision}.onnx", "parity": LABELLED, **changes})


def failing(p50_ms: float, precision: str = "int8", **changes: Any) -> Result:
    check = GateCheck(metric="relative-accuracy", value=0.981, limit=0.99, passed=False)
    return file(p50_ms, precision, gate="fail", failures=["relative-accuracy is 0.981, gate >= 0.99"], gates=[check], **changes)


def decided(results: list[Result], **about: Any) -> Decision:
    decision = decide(results, **about)
    assert decision is not None
    return decision


def test_the_fastest_file_that_passes_is_deployed_with_what_it_costs() -> None:
    results = [
        eager(16.53, batch=8), file(15, batch=8), failing(2, batch=8),
        file(3.2258, "int8", batch=2, backend="openvino", size_bytes=11_000_000), eager(13.2, batch=2),
    ]  # fmt: skip
    found = decided(results)
    assert found.text == (
        "Deploy model.int8.onnx with OpenVINO at batch 2: 620 images/s, 4.1x eager, top-1 -0.33 points (95%: -1.25 to +0.59), "
        "11 MB."
    )
    assert (found.kind, found.reason, found.row, found.eager) == ("deploy", None, 3, 4)
    assert (found.artifact, found.backend, found.precision, found.batch) == ("model.int8.onnx", "openvino", "int8", 2)
    assert found.speedup == pytest.approx(13.2 / 3.2258) and found.accuracy_difference_low == -0.0125


def test_no_gate_passed() -> None:
    found = decided([eager(10), failing(2), failing(4, batch=2), failing(3, "fp8", backend="tensorrt", device="cuda")])
    assert found.kind == "none" and found.row is None
    assert found.text == (
        "Nothing to deploy: no gate passed. model.int8.onnx with ONNX Runtime: accuracy 98.1% of FP32, needs 99%; "
        "model.fp8.onnx with TensorRT: accuracy 98.1% of FP32, needs 99%."
    )
    broken = file(2, gate="fail", failures=["the outputs have NaN or Inf"])
    assert "the outputs have NaN or Inf" in decided([eager(10), broken]).text


def test_nothing_is_faster_than_eager_beyond_noise() -> None:
    found = decided([eager(10), file(9.8), file(12, "fp16")])
    assert found.text == (
        "Nothing to deploy: nothing is faster than eager PyTorch beyond noise. The nearest is model.fp32.onnx with ONNX "
        "Runtime at batch 1, 1.02x eager."
    )
    noisy = [eager(10, noisy=True), file(9, noisy=True)]  # 11 % faster, and each median is known to 13 %
    assert decided(noisy).kind == "none" and decided([eager(10), file(9)]).kind == "deploy"


def test_eager_at_another_batch_may_be_faster_than_every_file() -> None:
    found = decided([eager(1), file(0.9), eager(3, batch=8), file(10, batch=8)])
    assert found.kind == "none"
    assert "eager PyTorch at batch 8 gives 2,667 images/s, and the fastest file, model.fp32.onnx" in found.text


def test_random_weights_allow_a_statement_of_speed_alone() -> None:
    found = decided([eager(10), file(5, size_bytes=1_090_000)], random_weights=True)
    assert found.kind == "speed-only" and found.row == 1
    assert found.text == (
        "Fastest is model.fp32.onnx with ONNX Runtime at batch 1: 200 images/s, 2.0x eager, 1.1 MB. Only the speed is known: "
        "the weights are random, so the answers mean nothing; give --weights to decide."
    )
    assert decided([eager(10), failing(5)], random_weights=True).kind == "none"


def test_a_row_too_noisy_to_tell_is_passed_over() -> None:
    wild = file(1, "int8", latency_s=latency(1e-3, iqr=0.4e-3))
    assert uncertainty(wild) > TOO_NOISY
    assert decided([eager(10), wild, file(5)]).precision == "fp32"
    alone = decided([eager(10), wild])
    assert alone.kind == "none" and "too noisy to tell; stop other programs" in alone.text
    assert uncertainty(file(1, samples=3)) == math.inf
    assert decided([eager(10), file(2, noisy=True)]).text.endswith("The measurement is noisy.")


@pytest.mark.parametrize(
    ("results", "chosen"),
    [
        ([file(5.0, "fp32"), file(4.9, "int8")], 1),  # 2 % is a tie: the higher precision
        ([file(5.0, "fp32"), file(4.7, "int8")], 2),  # 6 % is none
        ([file(5.0, "fp16"), file(4.9, "bf16"), file(4.95, "fp8"), file(4.92, "int8")], 1),
        ([file(5.0, "fp32", noisy=True), file(4.0, "int8", noisy=True)], 1),  # 25 % with medians known to 13 % each
        ([file(39, batch=32), file(10, batch=8)], 2),  # 2.6 % more throughput: the smaller batch
        ([file(30, batch=32), file(10, batch=8)], 1),
        ([file(5.0), file(4.9, backend="openvino")], 2),  # of the same precision and batch the faster
    ],
)
def test_ties_go_to_the_higher_precision_then_to_the_smaller_batch(results: list[Result], chosen: int) -> None:
    found = decided([eager(100), *results, eager(500, batch=8), eager(2000, batch=32)])
    assert found.row == chosen


def test_one_backend_only() -> None:
    found = decided([file(5)])
    assert found.kind == "deploy" and found.eager is None and found.speedup is None
    assert "200 images/s, eager was not measured, top-1 -0.33" in found.text
    only = decided([eager(10), eager(40, batch=8)])
    assert only.text == "Nothing to deploy: nothing but eager PyTorch was measured; add --backend onnxruntime, for example."
    assert decide([]) is None


def test_without_labels_what_is_known_of_the_answers_is_said() -> None:
    agreeing = decided([eager(10), file(5, parity={"accuracy_difference": None, "top1_agreement": 0.989})]).text
    assert "2.0x eager, the class of eager for 98.90% of the images (accuracy unknown without labelled --data)" in agreeing
    check = GateCheck(metric="cosine-mean", value=0.99991, limit=0.99, passed=True)
    embedding = decided([eager(10), file(5, parity={"top1_agreement": None}, gates=[check])]).text
    assert "mean cosine 0.9999, needs 0.99 (accuracy unknown" in embedding


def test_eager_on_the_same_device_is_what_a_file_is_compared_with() -> None:
    gpu = {"device": "cuda", "backend": "tensorrt"}
    found = decided([eager(40), eager(4, device="cuda"), file(1, "fp16", **gpu)])
    assert found.eager == 1 and "4.0x eager, " in found.text and "with TensorRT at" in found.text
    other = decided([eager(40), file(1, "fp16", **gpu)])
    assert other.eager == 0 and "40.0x eager on cpu" in other.text
    ort = decided([eager(4, device="cuda"), file(1, "fp16", device="cuda", backend="onnxruntime:tensorrt")])
    assert "with ONNX Runtime (tensorrt) on cuda at batch 1" in ort.text


def test_eager_with_options_can_be_deployed_and_a_simulation_cannot() -> None:
    compiled = row(5, backend="eager:compile", artifact="weights.safetensors", parity=LABELLED)
    assert decided([eager(10), compiled]).text.startswith("Deploy weights.safetensors with PyTorch (compile) at batch 1")
    simulated = file(1, "int8", backend="onnxruntime:simulate")
    assert decided([eager(10), simulated]).kind == "none" and decided([eager(10), simulated, file(5)]).row == 2


RESULTS = st.builds(
    lambda backend, device, noisy, gate, **given: row(backend=backend, device=device, noisy=noisy, gate=gate, **given),
    st.sampled_from(["eager", "onnxruntime", "openvino"]), st.sampled_from(["cpu", "cuda"]), st.booleans(),
    st.sampled_from(["pass", "pass", "fail"]), p50_ms=st.floats(0.01, 1e3), batch=st.sampled_from([1, 8, 32]),
    precision=st.sampled_from(["fp32", "fp16", "int8"]), samples=st.integers(1, 100),
)  # fmt: skip


@given(st.lists(RESULTS, max_size=10), st.booleans())
def test_whatever_was_measured_the_choice_keeps_the_rule(results: list[Result], random_weights: bool) -> None:
    found = decide(results, random_weights=random_weights)
    assert (found is None) == (not results)
    if found is None or found.row is None:
        return
    chosen, files = results[found.row], [r for r in results if (r.backend, r.precision) != ("eager", "fp32")]
    assert chosen in files and chosen.gate == "pass" and uncertainty(chosen) <= TOO_NOISY
    if found.eager is not None:
        base = results[found.eager]
        assert (base.backend, base.precision, base.batch) == ("eager", "fp32", chosen.batch) and beats(chosen, base)
    assert not any(beats(r, chosen) for r in results if (r.backend, r.precision, r.device) == ("eager", "fp32", chosen.device))
    quicker = [r for r in files if r.gate == "pass" and uncertainty(r) <= TOO_NOISY and r.batch == chosen.batch
               and r.device == chosen.device and beats(r, chosen)]  # fmt: skip
    assert not quicker


@pytest.mark.parametrize(("size_bytes", "text"), [(294_000, "0.29 MB"), (1_089_612, "1.1 MB"), (102_400_000, "102 MB")])
def test_sizes_are_written_out(size_bytes: int, text: str) -> None:
    decision = decided([eager(20.0), file(5.0, size_bytes=size_bytes)])
    assert decision.text.removesuffix(".").endswith(f", {text}")
