"""What is said of results: at each limit and on either side of it, and never of results that give no reason."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resnet_deploy.benchmarking.advice import SEVERITIES, Advice, advise
from resnet_deploy.benchmarking.report import Result
from tests.helpers.results import latency, row


def only(verdicts: list[Advice], kind: str) -> Advice:
    assert [verdict.kind for verdict in verdicts] == [kind]
    return verdicts[0]


# Measured with the scripts of benchmarks/: ResNet-50, ONNX Runtime on two cores, the graph for TensorRT and the one for CPUs.
def test_int8_that_is_slower_than_fp32_is_said_with_what_to_use() -> None:
    results = [row(40, precision="fp32"), row(63, precision="int8"), row(232, batch=8), row(83, batch=8, precision="int8")]
    found = next(v for v in advise(results) if v.kind == "slower-precision")
    assert found.severity == "problem" and found.rows == (1, 0)
    assert found.text == "int8 on onnxruntime (cpu) is slower at batch 1 (fp32 is 1.57x as fast); use fp32 there"
    assert not [v for v in advise([row(40), row(13, precision="int8")]) if v.kind == "slower-precision"]


def test_the_fastest_precision_that_passes_is_what_to_use() -> None:
    failed = row(5, precision="fp16", gate="fail")
    results = [failed, row(8, precision="bf16"), row(9, precision="fp32"), row(10, precision="int8")]
    found = only(advise(results), "slower-precision")
    assert found.text.endswith("use bf16 there") and found.rows == (3, 1)
    assert "use fp16" in only(advise([failed, row(10, precision="fp8")]), "slower-precision").text


@pytest.mark.parametrize(
    ("int8_ms", "change", "said"),
    [
        (10.2, {}, False), (10.4, {}, True),  # a tie is no verdict: 3 % is within what medians repeat to
        (20, {"batch": 2}, False), (20, {"backend": "openvino"}, False), (20, {"device": "cuda"}, False),
    ],
)  # fmt: skip
def test_only_the_same_backend_device_and_batch_are_compared(int8_ms: float, change: dict[str, Any], said: bool) -> None:
    results = [row(10, precision="fp16"), row(int8_ms, **{"precision": "int8", **change})]
    assert bool([v for v in advise(results) if v.kind == "slower-precision"]) == said


def test_a_noisy_comparison_is_a_warning_and_says_so() -> None:
    noisy = [row(10, precision="fp16", noisy=True), row(20, precision="int8")]
    found = only(advise(noisy), "slower-precision")
    assert found.severity == "warning" and found.text.endswith("the measurement is noisy")


def test_a_backend_slower_than_eager_is_said() -> None:
    results = [row(10, backend="eager"), row(10.2), row(50, batch=8, backend="eager"), row(60, batch=8, backend="openvino")]
    found = [v for v in advise(results) if v.kind == "slower-than-eager"]
    assert [v.rows for v in found] == [(3, 2)]
    assert found[0].text == "openvino (cpu) in fp32 is slower than eager PyTorch at batch 8 (eager is 1.20x as fast)"


def test_eager_is_compared_in_the_same_precision_where_it_has_it() -> None:
    eager = [row(4, backend="eager", device="cuda"), row(2, backend="eager", device="cuda", precision="fp16")]
    fp16 = row(3, backend="tensorrt", device="cuda", precision="fp16")
    assert only(advise([*eager, fp16], input="uint8"), "slower-than-eager").rows == (2, 1)
    assert advise([eager[0], fp16], input="uint8") == []
    int8 = row(3, backend="tensorrt", device="cuda", precision="int8")
    assert advise([*eager, int8], input="uint8") == [], "INT8 is compared with FP32"
    assert advise([row(1, backend="eager"), int8], input="uint8") == [], "another device"


@pytest.mark.parametrize(
    ("results", "knee"),
    [
        ([row(10, batch=8), row(38.2, batch=32)], (0, 1)),  # 4.7 % more for 3.8x
        ([row(10, batch=8), row(38.0, batch=32)], None),  # 5.3 % more
        ([row(10, batch=8), row(14.9, batch=12)], None),  # 0.7 % more for 1.49x
        ([row(10, batch=8), row(15.0, batch=12)], (0, 1)),
        ([row(38.2, batch=32), row(10, batch=8), row(2, batch=1)], (1, 0)),  # in whatever order
        ([row(10, batch=8), row(20, batch=16), row(36, batch=32)], None),  # 16 gains nothing, 32 gains 11 %
        ([row(10, batch=8), row(60, batch=32)], (0, 1)),  # less throughput
        ([row(10, batch=8), row(40, batch=32, precision="int8")], None),  # two lines of one point each
        ([row(10, batch=8), row(40, batch=32, device="cuda")], None),
    ],
)  # fmt: skip
def test_the_knee_is_where_a_larger_batch_no_longer_pays(results: list[Result], knee: tuple[int, ...] | None) -> None:
    found = [verdict.rows for verdict in advise(results, input="uint8") if verdict.kind == "knee"]
    assert found == ([] if knee is None else [knee])


def test_the_knee_is_named_with_its_price() -> None:
    found = only(advise([row(2, batch=1), row(10, batch=8), row(39.2, batch=32), row(90, batch=64)]), "knee")
    assert (
        found.text
        == "onnxruntime (cpu) fp32: a batch larger than 8 does not pay; batch 64 gives 11% less throughput for 9.0x the latency"
    )
    assert found.rows == (1, 2, 3) and found.severity == "advice"


@given(st.lists(st.tuples(st.integers(1, 512), st.floats(0.1, 1000)), unique_by=lambda pair: pair[0], max_size=7), st.randoms())
def test_no_larger_batch_beats_a_knee(points: list[tuple[int, float]], shuffler: random.Random) -> None:
    results = [row(ms, batch=batch) for batch, ms in points]
    found = advise(results)
    for verdict in found:
        knee, *past = (results[index] for index in verdict.rows)
        assert all(r.latency_s.p50 >= 1.5 * knee.latency_s.p50 for r in past) and past
        larger = [r for r in results if r.batch > knee.batch]
        assert all(r.images_per_s < 1.05 * knee.images_per_s for r in larger)
    shuffler.shuffle(results)
    assert [verdict.text for verdict in advise(results)] == [verdict.text for verdict in found], "the order does not matter"


@pytest.mark.parametrize(("enqueue_ms", "device", "said"), [(0.079, "cuda", False), (0.081, "cuda", True), (0.1, "cpu", False)])
def test_a_device_that_waits_for_the_host_is_said(enqueue_ms: float, device: str, said: bool) -> None:
    results = [row(0.1, device=device, device_ms=0.1, enqueue_ms=enqueue_ms)]
    found = advise(results, input="uint8")
    assert [verdict.kind for verdict in found] == ["enqueue-bound"] * said
    if said:
        assert "0.081 ms of 0.1 ms" in found[0].text and "CUDA graphs" in found[0].text


def test_results_without_an_enqueue_time_are_judged_without() -> None:
    plain = {name: value for name, value in vars(row(0.1, device="cuda")).items() if name != "enqueue_latency_s"}
    assert advise([Result(**plain)], input="uint8") == advise([row(0.1, device="cuda")], input="uint8") == []


def test_copies_of_float_images_are_said_with_the_arithmetic() -> None:
    # 32 images of 3 x 224 x 224 floats are 19.27 MB: at 9.6 GB/s, 2 ms beside 2 ms of inference.
    results = [row(4, batch=32, device="cuda", device_ms=2)]
    found = only(advise(results, image_values=3 * 224 * 224), "copy-bound")
    assert "2 ms of 4 ms outside the device" in found.text
    assert "19.3 MB (9.6 GB/s); as uint8 they are 4.82 MB" in found.text
    assert found.text.endswith("at best 2.5 ms, 12,800 images/s in place of 8,000")
    assert advise(results, input="uint8") == [], "pixels are as small as they get"
    assert "MB" not in only(advise(results), "copy-bound").text, "no image size, no sizes"


@pytest.mark.parametrize(
    ("device_ms", "device", "said"), [(7.4, "cuda", True), (7.6, "cuda", False), (11, "cuda", False), (2, "cpu", False)]
)
def test_copies_are_said_from_a_quarter_of_the_latency_on(device_ms: float, device: str, said: bool) -> None:
    assert bool(advise([row(10, device=device, device_ms=device_ms)])) == said


def test_one_verdict_a_series_about_the_batch_that_loses_most() -> None:
    results = [
        row(1, device="cuda", device_ms=0.7),
        row(8, batch=8, device="cuda", device_ms=4),
        row(9, batch=9, device="cuda"),
    ]
    found = next(v for v in advise(results) if v.kind == "copy-bound")
    assert found.rows == (0, 1) and "batch 8" in found.text


def test_the_gravest_comes_first_and_all_is_plain_data() -> None:
    results = [
        row(4, batch=1, backend="eager", device="cuda"), row(5, batch=1, device="cuda", device_ms=1, enqueue_ms=0.9),
        row(40, batch=8, device="cuda", device_ms=39),
    ]  # fmt: skip
    found = advise(results)
    assert [verdict.kind for verdict in found] == ["slower-than-eager", "enqueue-bound", "copy-bound", "knee"]
    assert [SEVERITIES.index(v.severity) for v in found] == [0, 1, 1, 2]
    assert found[0].to_dict()["rows"] == (1, 0)
    assert advise([]) == []


ROWS = st.builds(
    row, st.floats(0.01, 1e3), batch=st.integers(1, 64), device_ms=st.none() | st.floats(0.01, 1e3),
    enqueue_ms=st.none() | st.floats(0.001, 10), backend=st.sampled_from(["eager", "onnxruntime", "tensorrt"]),
    device=st.sampled_from(["cpu", "cuda"]), precision=st.sampled_from(["fp32", "fp16", "int8", "fp8"]), noisy=st.booleans(),
    gate=st.sampled_from(["pass", "fail"]),
)  # fmt: skip


@given(st.lists(ROWS, max_size=12), st.sampled_from(["float", "uint8"]))
def test_every_verdict_is_about_rows_that_are_there(results: list[Result], sent: str) -> None:
    for verdict in advise(results, input=sent, image_values=1000):
        assert verdict.rows and set(verdict.rows) <= set(range(len(results))) and len(set(verdict.rows)) == len(verdict.rows)
        about = [results[index] for index in verdict.rows]
        assert any(r.backend in verdict.text for r in about)
        if verdict.kind == "slower-precision":
            assert {r.precision for r in about} & {"int8", "fp8"} and {r.precision for r in about} - {"int8", "fp8"}
        if verdict.kind in {"enqueue-bound", "copy-bound"}:
            assert {r.device for r in about} == {"cuda"}
    slower = [replace(r, latency_s=latency(r.latency_s.p50 * 2), device_latency_s=latency(r.device_latency_s.p50 * 2),
                      images_per_s=r.images_per_s / 2, noisy=False) for r in results]  # fmt: skip
    kinds = {"slower-precision", "slower-than-eager", "knee"}
    quiet = [replace(r, noisy=False) for r in results]
    said = [[(v.kind, v.rows) for v in advise(given, input=sent) if v.kind in kinds] for given in (quiet, slower)]
    assert said[0] == said[1], "a machine of half the speed gets the same advice"
