"""Parity against values worked out by hand or by another formula."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest

from resnet_deploy import _json
from resnet_deploy.errors import UsageError
from resnet_deploy.parity.confidence import mcnemar, pack, paired_interval, unpack, unpaired_interval
from resnet_deploy.parity.gates import METRICS, judge, parse_gates
from resnet_deploy.parity.metrics import OutputComparison, ParityReport
from resnet_deploy.specs import Precision

RNG = np.random.default_rng(0)


def compare(
    reference: np.ndarray, candidate: np.ndarray, labels: np.ndarray | None = None, name: str = "logits"
) -> ParityReport:
    comparison = OutputComparison()
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
    comparison = OutputComparison()
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
    comparison = OutputComparison()
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
    assert judge(report, Precision.FP32, {"max-rel-error": 1e300}) == ["the outputs have NaN or Inf"]
    assert report.to_dict()["max_abs_error"] == "nan", "JSON has no NaN: it is spelled out, never dropped"


def test_one_finite_output_does_not_hide_another() -> None:
    comparison = OutputComparison()
    arrays = {"features_c2": np.ones((1, 2)), "features_c3": np.ones((1, 2))}
    comparison.add(arrays, {**arrays, "features_c3": np.array([[1.0, np.nan]])})
    assert not comparison.report().finite


def test_other_shapes_are_another_model() -> None:
    with pytest.raises(UsageError, match="not those of one model"):
        compare(np.ones((2, 3)), np.ones((2, 4)))


def test_nothing_compared_is_not_a_pass() -> None:
    with pytest.raises(UsageError, match="no image"):
        OutputComparison().report()


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


def test_an_infinite_error_is_recorded_and_fails_its_gate_from_the_record_too() -> None:
    """A reference that is zero where the candidate is not: once this became None, and None passes every gate."""
    zeros = np.zeros((2, 3), np.float32)
    report = compare(zeros, zeros + 1)
    assert report.finite and report.max_rel_error == math.inf
    record = json.loads(_json.encode(report.to_dict()))
    assert record["max_rel_error"] == "inf"
    for judged in (report, ParityReport.from_dict(record)):
        assert judged == report
        failures = judge(judged, Precision.FP32, {"cosine-min": -1, "top1-agreement": 0})
        assert failures == ["max-rel-error is inf, gate <= 0.0001"]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_gate_on_a_figure_that_is_not_finite(metric: str, value: str) -> None:
    record = compare(np.eye(3), np.eye(3), np.arange(3)).to_dict() | {metric.replace("-", "_"): value}
    worse = "-inf" if METRICS[metric] else "inf"
    failures = judge(ParityReport.from_dict(record), Precision.FP32, {metric: 0.5})
    assert bool(failures) == (value in {"nan", worse})


def test_a_record_of_an_earlier_version_is_read() -> None:
    """It has null for what was not finite, and nothing of single images."""
    broken = compare(np.ones((2, 3)), np.full((2, 3), np.nan)).to_dict()
    old = {name: None if value == "nan" else value for name, value in broken.items() if name != "outcomes"}
    report = ParityReport.from_dict(old)
    assert not report.finite and math.isnan(report.max_abs_error) and report.outcomes is None
    assert judge(report, Precision.FP32) == ["the outputs have NaN or Inf"]
    lost = ParityReport.from_dict(old | {"finite": True, "mean_abs_error": 1.0})
    assert [failure.split()[0] for failure in judge(lost, Precision.FP32, {"top1-agreement": 0})] == [
        "max-rel-error", "cosine-min",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"images": 0}, "images: "), ({"images": True}, "images: "), ({"finite": 1}, "finite: "),
        ({"max_rel_error": "Infinity"}, "max_rel_error: "), ({"max_rel_error": -1}, "max_rel_error: "),
        ({"max_rel_error": math.inf}, "max_rel_error is inf"), ({"cosine_min": 1.5}, "cosine_min: "),
        ({"top1_accuracy": 73.3}, "top1_accuracy: "), ({"mcnemar_p": []}, "mcnemar_p: "),
        ({"finite": None}, "finite: "), ({"outcomes": {"agree": 1}}, "outcomes"),
        ({"outcomes": {"agree": pack([True] * 9)}}, "another number of images than 3"),
        ({"outcomes": {"agree": "?"}}, "not base64"), ({"outcomes": {"agree": "/w=="}}, "another number of images than 3"),
    ],
)  # fmt: skip
def test_a_record_that_cannot_be_is_refused_by_its_field(change: dict[str, object], said: str) -> None:
    record = compare(np.eye(3), np.eye(3), np.arange(3)).to_dict()
    with pytest.raises(ValueError, match=said):
        ParityReport.from_dict(record | change)


def test_a_record_without_a_figure_is_refused() -> None:
    record = compare(np.eye(3), np.eye(3)).to_dict()
    del record["cosine_min"]
    with pytest.raises(ValueError, match="cosine_min"):
        ParityReport.from_dict(record)


def test_which_images_were_right_is_kept() -> None:
    reference, candidate = np.eye(5)[[0, 1, 2, 3, 4, 0, 1, 2, 3]], np.eye(5)[[0, 1, 2, 3, 0, 0, 1, 2, 4]]
    report = compare(reference, candidate, np.array([0, 1, 2, 3, 4, 1, 1, 2, 4]))
    assert report.outcomes is not None
    kept = {name: unpack(text, 9).tolist() for name, text in report.outcomes.items()}
    assert kept == {
        "agree": [True] * 4 + [False] + [True] * 3 + [False],
        "correct": [True] * 4 + [False, False, True, True, True],
        "reference_correct": [True] * 5 + [False, True, True, False],
    }
    assert set(compare(reference, candidate).outcomes or ()) == {"agree"}, "without labels"


@pytest.mark.parametrize("text", ["nonsense=1", "top1-agreement", "top1-agreement=high", "top1-agreement=nan", "=1"])
def test_malformed_gates(text: str) -> None:
    with pytest.raises(UsageError, match="gate"):
        parse_gates([text])


@pytest.mark.parametrize("text", ["max-rel-error=inf", "cosine-min=-inf", "relative-accuracy=1e999", "top1-agreement=nan"])
def test_a_limit_that_is_not_finite_would_always_hold_or_never(text: str) -> None:
    with pytest.raises(UsageError, match=r"the gate .* needs a finite number"):
        parse_gates([text])
    metric, _, limit = text.partition("=")
    with pytest.raises(UsageError, match="needs a finite number"):
        judge(compare(np.eye(3), np.eye(3)), Precision.FP32, {metric: float(limit)})


def test_newcombes_interval_is_that_of_his_paper() -> None:
    """Table II, method 10: 56/70 - 48/80, 9/10 - 3/10, 10/10 - 0/10."""
    for (first, n), (second, m), expected in (
        ((48, 80), (56, 70), (0.0524, 0.3339)), ((3, 10), (9, 10), (0.1705, 0.8090)), ((0, 10), (10, 10), (0.6075, 1.0)),
    ):  # fmt: skip
        assert unpaired_interval(first / n, n, second / m, m) == pytest.approx(expected, abs=1e-4)


def test_newcombes_interval_covers_the_truth_as_often_as_it_says() -> None:
    first, second, n, m = 0.733, 0.587, 75, 90
    draws = zip(RNG.binomial(n, first, 2000), RNG.binomial(m, second, 2000), strict=True)
    found = [unpaired_interval(a / n, n, b / m, m) for a, b in draws]
    assert 0.935 <= np.mean([low <= second - first <= high for low, high in found]) <= 0.975
