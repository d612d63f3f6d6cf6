"""What a gate judged, in words."""

from __future__ import annotations

import math

import pytest

from resnet_deploy.parity.gates import METRICS, GateCheck, check_gates, describe_gates, judge
from resnet_deploy.parity.metrics import ParityReport
from resnet_deploy.precisions import Precision, all_precisions

REPORT = ParityReport(
    images=600, finite=True, max_abs_error=0.5, mean_abs_error=0.1, max_rel_error=1e-6, cosine_mean=0.9999, cosine_min=0.995,
    top1_agreement=0.989, top5_agreement=0.995, top1_accuracy=0.981, reference_top1_accuracy=0.984, relative_accuracy=0.997,
    accuracy_difference=-0.003, accuracy_difference_low=-0.01, accuracy_difference_high=0.004,
)  # fmt: skip


@pytest.mark.parametrize(
    ("metric", "value", "limit", "text"),
    [
        ("relative-accuracy", 1.0, 0.99, "accuracy 100% of FP32, needs 99%"),
        ("relative-accuracy", 0.989999, 0.99, "accuracy 98.9999% of FP32, needs 99%"),
        ("top1-agreement", 0.989, 0.98, "top-1 agreement 98.9%, needs 98%"),
        ("top1-accuracy", 0.9, 1.01, "top-1 accuracy 90%, needs 101%"),
        ("max-rel-error", 1e-6, 1e-4, "max relative error 1.0e-06, at most 0.0001"),
        ("cosine-mean", 0.98999, 0.99, "mean cosine 0.98999, needs 0.99"),
        ("accuracy-difference", -0.0033, -0.005, "top-1 accuracy -0.33 points from FP32, needs -0.5"),
        ("cosine-min", math.nan, 0.99, "lowest cosine nan, needs 0.99"),
        ("max-abs-error", math.inf, 0.1, "max error inf, at most 0.1"),
    ],
)
def test_each_metric_in_words(metric: str, value: float, limit: float, text: str) -> None:
    assert str(GateCheck(metric=metric, value=value, limit=limit, passed=True)) == text


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric_has_words(metric: str) -> None:
    assert metric not in str(GateCheck(metric=metric, value=0.5, limit=0.25, passed=True))


@pytest.mark.parametrize("precision", all_precisions())
def test_checks_and_failures_are_of_one_mind(precision: Precision) -> None:
    limits = {"top1-agreement": 0.99, "max-abs-error": 1.0}
    checks = check_gates(REPORT, precision, limits)
    failures = judge(REPORT, precision, limits)
    assert (
        {c.metric for c in checks if not c.passed} == {failure.partition(" ")[0] for failure in failures} >= {"top1-agreement"}
    )
    assert [c.passed for c in checks] == sorted(c.passed for c in checks), "those that fail come first"


def test_the_condition_that_tells_most_is_said() -> None:
    assert describe_gates(check_gates(REPORT, Precision.INT8, {})) == "accuracy 99.7% of FP32, needs 99%"
    assert describe_gates(check_gates(REPORT, Precision.BF16, {})) == "top-1 agreement 98.9%, needs 98%"
    named = check_gates(REPORT, Precision.INT8, {"max-abs-error": 1.0})
    assert describe_gates(named) == "max error 5.0e-01, at most 1", "what was asked for goes first"
    failed = check_gates(REPORT, Precision.FP32, {})
    assert describe_gates(failed) == "top-1 agreement 98.9%, needs 99.9%; lowest cosine 0.995, needs 0.9999"
    assert describe_gates([], ["the outputs have NaN or Inf"]) == "the outputs have NaN or Inf"
    nothing = ParityReport(images=1, finite=False, max_abs_error=math.nan, mean_abs_error=math.nan, max_rel_error=math.nan,
                           cosine_mean=math.nan, cosine_min=math.nan)  # fmt: skip
    assert check_gates(nothing, Precision.FP32, {}) == []
