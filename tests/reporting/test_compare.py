"""Two runs compared: what is beyond noise, what is a regression, and what cannot be compared."""

from __future__ import annotations

import copy
import json
import math
import random
from dataclasses import replace
from typing import Any

import pytest

from resnet_deploy.errors import UsageError
from resnet_deploy.reporting.compare import RunComparison, compare_reports
from resnet_deploy.reporting.differences import comparison_summary
from resnet_deploy.reporting.formatting import points, share
from resnet_deploy.reporting.noise import ROUNDS, judge_interval
from resnet_deploy.timing.measure import MeasureConfig
from tests.helpers.reports import full, small


def verdicts(found: RunComparison) -> list[str]:
    return [change.verdict for change in found.changes]


def drifting(seed: int, scale: float = 1.0) -> dict[str, Any]:
    """A run whose machine changes its pace from turn to turn by 2 %, far more than within a turn."""
    draw, report = random.Random(seed), small(scale)
    for result in report["results"]:
        p50 = result["latency_s"]["p50"]
        turns = [p50 * draw.gauss(1, 0.02) for _ in range(ROUNDS)]
        values = [turn * draw.gauss(1, 0.002) for turn in turns for _ in range(100)]
        result["latency_s"]["p50"] = sorted(values)[300]
        report["samples"][f"{result['backend']}|cpu|fp32|{result['batch']}"] = {"host_s": values}
    return report


def test_the_turns_are_the_measurements() -> None:
    assert MeasureConfig().rounds == ROUNDS


def test_a_run_is_the_same_as_itself() -> None:
    """Not by chance: a measurement that both runs have is no second sample of it."""
    for with_samples in (True, False):
        run = small(with_samples=with_samples, spread=0.3)
        found = compare_reports(run, copy.deepcopy(run), limit=0.0)
        assert verdicts(found) == ["same"] * 4 and found.failures == found.inconclusive == found.notes == []
        assert all(change.low == change.ratio == change.high == 1 and change.noise == "none" for change in found.changes)
    later = small(seed=9)
    for result in later["results"]:
        result["measured"] = "2026-11-21T10:00:00+00:00"
    found = compare_reports(small(), later, limit=0.05)
    assert verdicts(found) == ["same"] * 4 and {change.noise for change in found.changes} == {"samples"}


@pytest.mark.slow
def test_two_runs_of_a_drifting_machine_are_seldom_different() -> None:
    """160 rows between which nothing changed: at 95 % some 8 would seem to."""
    pairs = [(drifting(2 * seed), drifting(2 * seed + 1)) for seed in range(40)]
    found = [verdict for pair in pairs for verdict in verdicts(compare_reports(*pair))]
    assert sum(verdict in {"slower", "faster"} for verdict in found) <= 8 and found.count("same") > 120


@pytest.mark.slow
def test_a_true_change_is_found_through_the_same_drift() -> None:
    found = [compare_reports(drifting(seed), drifting(seed + 100, 1.15)) for seed in range(20)]
    assert sum(verdict == "slower" for one in found for verdict in verdicts(one)) >= 76


@pytest.mark.parametrize(("scale", "expected"), [(1.08, "slower"), (0.9, "faster"), (1.0001, "same")])
def test_what_changed_more_than_noise(scale: float, expected: str) -> None:
    found = compare_reports(small(), small(scale, seed=9))
    assert verdicts(found) == [expected] * 4
    for change in found.changes:
        assert change.ratio == pytest.approx(scale) and change.low <= change.ratio <= change.high
    back = compare_reports(small(scale, seed=9), small())
    assert [change.low for change in back.changes] == pytest.approx([1 / change.high for change in found.changes], rel=1e-2)


def test_a_limit_and_noise_both_count() -> None:
    slower = small(1.08, seed=9)
    assert len(compare_reports(small(), slower, limit=0.05).failures) == 4
    assert "slower by 8.0%, more than 5.0%" in compare_reports(small(), slower, limit=0.05).failures[0]
    found = compare_reports(small(), slower, limit=0.1)
    assert found.failures == [] and verdicts(found) == ["slower"] * 4, "marked, but within the limit"
    assert compare_reports(small(), slower).failures == [], "no limit, no failure"
    drifted = compare_reports(drifting(3), drifting(4, 1.01), limit=0.0)
    assert verdicts(drifted) == ["inconclusive"] * 4 and drifted.failures == [], "slower, but within noise"
    assert all(change.ratio > 1 for change in drifted.changes[:1])
    assert verdicts(compare_reports(drifting(3), drifting(4, 1.01), limit=0.1)) == ["same"] * 4


@pytest.mark.parametrize(
    ("low", "high", "limit", "verdict", "failed", "doubted"),
    [
        (1.06, 1.10, 0.05, "slower", True, False), (1.01, 1.04, 0.05, "slower", False, False),
        (1.01, 1.09, 0.05, "inconclusive", False, True), (0.90, 1.30, 0.05, "inconclusive", False, True),
        (0.40, 9.00, 0.05, "inconclusive", False, True), (0.97, 1.04, 0.05, "same", False, False),
        (0.80, 1.02, 0.05, "inconclusive", False, False), (0.50, 0.90, 0.05, "faster", False, False),
        (0.95, 1.05, None, "same", False, False), (0.50, 3.00, None, "inconclusive", False, False),
        (1.01, 3.00, None, "slower", False, False), (0.0, math.inf, 0.05, "inconclusive", False, True),
    ],
)  # fmt: skip
def test_the_whole_interval_decides(
    low: float, high: float, limit: float | None, verdict: str, failed: bool, doubted: bool
) -> None:
    """Beyond the limit it fails, within it it passes, and with the limit in it nothing is known."""
    assert judge_interval(low, high, limit) == verdict
    found = compare_reports(small(), small(1.02), limit=limit)
    found = replace(found, changes=[replace(change, low=low, high=high, verdict=verdict) for change in found.changes])
    assert len(found.failures) == 4 * failed and len(found.inconclusive) == 4 * doubted


def test_a_row_that_is_much_slower_within_its_noise_is_never_the_same() -> None:
    """2.8 times slower, but so noisy that it may be as fast as before: measure again."""
    before, after = small(spread=0.5, with_samples=False), small(2.8, spread=2.0, with_samples=False)
    found = compare_reports(before, after, limit=0.05)
    assert all(change.ratio == pytest.approx(2.8) and change.low < 1 for change in found.changes)
    assert verdicts(found) == ["inconclusive"] * 4 and found.failures == [] and len(found.inconclusive) == 4
    assert "2.800 times the time before" in found.inconclusive[0] and "more than 5.0% slower" in found.inconclusive[0]


def test_rows_that_are_missing_are_failures() -> None:
    before, after = full((1, 8)), full((1, 8))
    gone = [after["results"].pop() for _ in range(3)]
    del after["scenarios"][0]
    found = compare_reports(before, after, limit=0.05)
    assert len(found.failures) == 4 and len(found.only_before) == len(gone)
    assert "tensorrt:streams=2 int8, batch 8: is in A and missing in B" in found.failures
    assert "tensorrt, cuda, int8, single-stream: was VALID and is missing" in found.failures
    assert compare_reports(before, after).failures == [], "no limit, no failure"
    assert compare_reports(after, before, limit=0.05).failures == [], "new rows are none"


def test_a_gate_of_a_scenario_counts_too() -> None:
    before, after = full((1,)), full((1,))
    after["scenarios"][1] |= {"gate": "fail", "failures": ["relative-accuracy is 0.8, gate >= 0.99"]}
    failures = compare_reports(before, after, limit=0.05).failures
    assert failures == ["tensorrt, cuda, int8, multi-stream: its gate passed and now fails"]


def test_without_samples_the_spread_decides() -> None:
    before = small(with_samples=False)
    found = compare_reports(before, small(1.08, with_samples=False))
    assert verdicts(found) == ["slower"] * 4 and {change.noise for change in found.changes} == {"iqr"}
    wide = compare_reports(small(with_samples=False, spread=0.2), small(1.08, with_samples=False, spread=0.2))
    assert verdicts(wide) == ["inconclusive"] * 4
    for few in ({"samples": 3}, {"samples": None}):
        after = small(2.0, with_samples=False)
        for result in after["results"]:
            result |= few
        found = compare_reports(before, after, limit=0.05)
        assert verdicts(found) == ["inconclusive"] * 4 and found.failures == [], "too few to know"
        assert len(found.inconclusive) == 4
        assert json.loads(json.dumps(found.to_dict(), allow_nan=False))["changes"][0]["high"] is None


def test_more_than_speed_can_become_worse() -> None:
    before, after = full((1, 8)), full((1, 8))
    after["results"][0] |= {"gate": "fail", "failures": ["cosine-min is 0.1"]}
    gone = after["results"].pop(1)
    error = {"error": "out of memory", **{name: gone[name] for name in ("backend", "device", "precision", "batch")}}
    after["unmeasured"] = [error]
    after["scenarios"][0] |= {"valid": False, "reason": "Min duration satisfied: NO"}
    found = compare_reports(before, after, limit=0.05)
    assert [said.split(": ", 1)[1] for said in found.failures] == [
        "its gate passed and now fails",
        "was measured and now fails: out of memory",
        "was VALID and is INVALID: Min duration satisfied: NO",
    ]
    assert "the gate was passed and is failed" in found.changes[0].differences
    assert compare_reports(after, before, limit=0.05).failures == [], "what became better is no failure"


def test_what_else_differs_is_said() -> None:
    before, after = full((1, 8)), full((1, 8))
    after["machine"]["packages"] |= {"torch": "2.14.0", "openvino": "2026.4"}
    after["machine"]["gpus"][0]["name"] = "NVIDIA H100"
    after["results"][0]["settings"]["streams"] = 4
    after["results"][0]["parity"]["top1_accuracy"] -= 0.01
    after["results"].pop()
    found = compare_reports(before, after)
    assert "torch was 2.13.0 and is 2.14.0" in found.notes and "openvino was missing and is 2026.4" in found.notes
    assert any("NVIDIA H200" in note and "NVIDIA H100" in note for note in found.notes)
    assert found.changes[0].differences == ["top1_accuracy was 0.8031 and is 0.7931", "streams was 1 and is 4"]
    assert found.only_before == ["tensorrt:streams=2 int8, batch 8"] and found.only_after == []
    assert "Beyond noise: 0 slower, 0 faster" in comparison_summary(found)[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architecture": "resnet18"}, "the architecture is resnet50 and resnet18"),
        ({"num_classes": 7}, "the number of classes is 1000 and 7"),
        ({"head": {"kind": "logits"}}, "the head is"),
        ({"input": {"name": "input", "dtype": "float32", "shape": []}}, "the input is"),
    ],
)
def test_different_networks_are_not_compared(change: dict[str, Any], said: str) -> None:
    other = copy.deepcopy(small())
    other["model"] |= change
    with pytest.raises(UsageError, match=said):
        compare_reports(small(), other)


def test_runs_without_a_common_row_are_not_compared() -> None:
    before, after = small(), small()
    before["results"], after["results"] = before["results"][:2], after["results"][2:]
    with pytest.raises(UsageError, match=r"no row in common.*eager fp32, batch 1.*eager fp32, batch 8"):
        compare_reports(before, after)


@pytest.mark.parametrize(
    ("text", "value"), [("5%", 0.05), ("0.05", 0.05), (0.05, 0.05), ("2.5 %", 0.025), (0, 0.0), (1e-7, 1e-7)]
)
def test_shares(text: str | float, value: float) -> None:
    assert share(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["5", "100%", "-1%", "five", "", "5%%", "nan", math.nan, math.inf, -0.1, 1, "٥%"])
def test_what_is_no_share(text: str | float) -> None:
    with pytest.raises(UsageError, match=r"as in 5% or 0\.05"):
        share(text)


@pytest.mark.parametrize(("text", "value"), [("0.5", 0.5), ("2 %", 2.0), (0, 0.0), ("100", 100.0)])
def test_points(text: str | float, value: float) -> None:
    assert points(text) == pytest.approx(value)


@pytest.mark.parametrize("text", ["101", "-1", "nan", "inf", "a few", "", math.nan, -1, 1e9])
def test_what_is_no_number_of_points(text: str | float) -> None:
    with pytest.raises(UsageError, match=r"no number of percentage points from 0 to 100"):
        points(text)
