"""Parity against values worked out by hand or by another formula."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from resnet_deploy.errors import UsageError
from resnet_deploy.parity import Comparison, ParityReport, judge, mcnemar, paired_interval, parse_gates
from resnet_deploy.specs import Precision

RNG = np.random.default_rng(0)


def compare(
    reference: np.ndarray, candidate: np.ndarray, labels: np.ndarray | None = None, name: str = "logits"
) -> ParityReport:
    comparison = Comparison()
    comparison.add({name: reference}, {name: candidate}, labels)
    return comparison.report()


def test_errors_and_cosines_by_hand() -> None:
    report = compare(np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([[3.0, 4.5], [0.0, 1.0]]))
    assert report.max_abs_error == 1.0
    assert report.mean_abs_error == pytest.approx((0.5 + 1 + 1) / 4)
    assert report.max_rel_error == pytest.approx(1.0 / 4.0)
    assert report.cosine_min == 0.0
    assert report.cosine_mean == pytest.approx((27 / (5 * math.hypot(3, 4.5))) / 2)


def test_equal_outputs_are_perfect_also_where_they_are_zero() -> None:
    zeros = np.zeros((2, 3), np.float32)
    report = compare(zeros, zeros.copy())
    assert (report.max_abs_error, report.max_rel_error, report.cosine_min, report.top1_agreement) == (0, 0, 1, 1)
    assert judge(report, Precision.FP32) == []


def test_zero_answers_to_a_live_reference_fail() -> None:
    report = compare(np.ones((2, 3)), np.zeros((2, 3)))
    assert report.cosine_min == 0 and judge(report, Precision.FP16)


def test_batches_add_up_to_the_whole() -> None:
    reference, noise = RNG.normal(size=(23, 10)), RNG.normal(size=(23, 10)) * 0.3
    labels = RNG.integers(0, 10, 23)
    whole = compare(reference, reference + noise, labels)
    comparison = Comparison()
    for start in range(0, 23, 5):
        part = slice(start, start + 5)
        comparison.add({"logits": reference[part]}, {"logits": (reference + noise)[part]}, labels[part])
    for name, value in whole.to_dict().items():
        assert comparison.report().to_dict()[name] == pytest.approx(value), name


def test_agreement_and_accuracy() -> None:
    reference = np.eye(6)[[0, 1, 2, 3]] * 9 + np.arange(6) * 0.1
    candidate = np.eye(6)[[0, 1, 2, 5]] * 9 + np.arange(6) * 0.1
    report = compare(reference, candidate, np.array([0, 1, 4, 5]))
    assert report.top1_agreement == 0.75
    assert (report.reference_top1_accuracy, report.top1_accuracy) == (0.5, 0.75)
    assert report.accuracy_difference == 0.25
    # Image 3: the reference's best five are 3 5 4 2 1, the candidate's 5 4 3 2 1: the same five.
    assert report.top5_agreement == 1.0


def test_topk_outputs_are_ranked_by_their_indices() -> None:
    comparison = Comparison()
    values = np.array([[0.6, 0.3], [0.5, 0.4]], np.float32)
    comparison.add(
        {"topk_values": values, "topk_indices": np.array([[7, 2], [1, 0]])},
        {"topk_values": values, "topk_indices": np.array([[7, 2], [0, 1]])},
        np.array([7, 1]),
    )
    report = comparison.report()
    assert report.top1_agreement == 0.5 and report.top5_agreement == 1.0
    assert (report.reference_top1_accuracy, report.top1_accuracy, report.top5_accuracy) == (1.0, 0.5, 1.0)


def test_outputs_that_are_not_scores_have_no_agreement() -> None:
    report = compare(RNG.normal(size=(3, 8)), RNG.normal(size=(3, 8)), np.array([0, 1, 2]), name="embedding")
    assert report.top1_agreement is None and report.top1_accuracy is None
    with pytest.raises(UsageError, match="no top1-agreement"):
        judge(report, Precision.FP32, {"top1-agreement": 0.9})


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("side", ["reference", "candidate"])
def test_anything_that_is_not_finite_fails_whatever_the_gates(bad: float, side: str) -> None:
    good, broken = np.ones((2, 3)), np.ones((2, 3))
    broken[1, 2] = bad
    report = compare(broken, good) if side == "reference" else compare(good, broken)
    assert judge(report, Precision.FP32, {"max-rel-error": math.inf}) == ["the outputs have NaN or Inf"]
    assert report.to_dict()["max_abs_error"] is None, "JSON has no NaN"


def test_one_finite_output_does_not_hide_another() -> None:
    comparison = Comparison()
    arrays = {"features_c2": np.ones((1, 2)), "features_c3": np.ones((1, 2))}
    comparison.add(arrays, {**arrays, "features_c3": np.array([[1.0, np.nan]])})
    assert not comparison.report().finite


def test_other_shapes_are_another_model() -> None:
    with pytest.raises(UsageError, match="not those of one model"):
        compare(np.ones((2, 3)), np.ones((2, 4)))


def test_nothing_compared_is_not_a_pass() -> None:
    with pytest.raises(UsageError, match="no image"):
        Comparison().report()


@pytest.mark.parametrize(("gained", "lost"), [*itertools.product([0, 1, 4, 9], [0, 2, 7])])
def test_mcnemar_is_the_exact_binomial_test(gained: int, lost: int) -> None:
    total = gained + lost
    tail = sum(math.comb(total, k) for k in range(min(gained, lost) + 1)) / 2**total
    assert mcnemar(gained, lost) == pytest.approx(min(1.0, 2 * tail))


def test_mcnemar_of_thousands_does_not_overflow() -> None:
    assert 0 < mcnemar(2600, 2400) < 0.01


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    """Paired outcomes with a known difference: 95 % of intervals hold it, within what 2,000 draws can tell."""
    gain, loss, count = 0.04, 0.06, 300
    draws = RNG.multinomial(count, [gain, loss, 1 - gain - loss], size=2000)
    inside = [low <= gain - loss <= high for low, high in (paired_interval(int(g), int(b), count) for g, b, _ in draws)]
    assert 0.935 <= np.mean(inside) <= 0.975


def test_gates_replace_the_defaults() -> None:
    report = compare(np.array([[1.0, 2.0]]), np.array([[1.0, 2.01]]))
    assert [text.split()[0] for text in judge(report, Precision.FP32)] == ["max-rel-error"]
    assert judge(report, Precision.FP32, parse_gates(["max-rel-error=0.1"])) == []
    assert judge(report, Precision.FP32, parse_gates(["max_rel_error=0.1", "cosine-min=1"])) != []


@pytest.mark.parametrize("text", ["nonsense=1", "top1-agreement", "top1-agreement=high", "top1-agreement=nan", "=1"])
def test_malformed_gates(text: str) -> None:
    with pytest.raises(UsageError, match="gate"):
        parse_gates([text])
