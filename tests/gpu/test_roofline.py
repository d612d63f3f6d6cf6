"""The ceilings that a CUDA device reaches, beside its published ones."""

from __future__ import annotations

from resnet_deploy.benchmarking.roofline.devices import find_ceiling, measure_ceiling


def test_a_measured_ceiling_is_below_the_published_one() -> None:
    measured = measure_ceiling("cuda")
    assert {"fp32", "tf32", "fp16", "bf16"} <= set(measured.flop_s)
    assert measured.flop_s["fp32"] < measured.flop_s["fp16"]
    assert measured.host_bytes_s is not None and measured.host_bytes_s < measured.memory_bytes_s
    if published := find_ceiling(measured.name):
        # Boost clocks of a cold card can pass the datasheet's by a little.
        assert measured.memory_bytes_s < 1.05 * published.memory_bytes_s
        assert all(rate < 1.1 * published.flop_s[precision] for precision, rate in measured.flop_s.items())
