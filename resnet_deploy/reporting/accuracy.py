"""What became of the answers between two runs: top-1 accuracy, eager's, and agreement with eager, each with its interval.

Where both runs judged the same images (`judged_on`) and kept which of them were right, the images are compared one by one:
Agresti and Min's interval of paired proportions. Else the two accuracies are compared as independent proportions, by
Newcombe's interval, which is wider: the same fall needs more images to be told from chance.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from resnet_deploy.parity.confidence import paired_interval, unpack, unpaired_interval
from resnet_deploy.reporting.formatting import number
from resnet_deploy.reporting.rows import Report

CLEAR = 0.01  # a fall of more than a point that chance may explain is no pass
_EXACT = 1e-9
_REFERENCE = "eager, the reference"
_METRICS = {  # what it is called, and the outcomes of single images that it is the mean of
    "top1_accuracy": ("top-1 accuracy", "correct"), "top1_agreement": ("top-1 agreement", "agree"),
    "reference_top1_accuracy": ("top-1 accuracy", "reference_correct"),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class AccuracyChange:
    """A figure of a candidate's answers in both runs. verdict: worse or better beyond the interval; inconclusive, a fall of
    more than a point within it; else same.

    Attributes:
        candidate: whose answers.
        metric: which figure.
        before, after: fractions of the images.
        images: how many the second run judged; None where that is not known.
        low, high: the 95 % interval of after - before.
        pairing: paired, image by image; unpaired; or unknown, without a number of images.
    """

    candidate: str
    metric: str
    before: float
    after: float
    images: int | None
    low: float
    high: float
    pairing: str

    @property
    def difference(self) -> float:
        """Of the two fractions; below 0 is a fall."""
        return self.after - self.before

    @property
    def verdict(self) -> str:
        if self.high < 0:
            return "worse"
        if self.low > 0:
            return "better"
        return "inconclusive" if self.difference < -CLEAR else "same"

    def failure(self, max_drop: float | None) -> str | None:
        """Why this is a regression, in words; None where it is not. max_drop: in points, or None for the interval."""
        if max_drop is not None:
            fell = self.difference < -max_drop / 100 - _EXACT
            return f"{self}, by more than {max_drop:g} points" if fell else None
        return f"{self}, beyond the interval of {self.pairing} answers: {self.interval}" if self.verdict == "worse" else None

    def doubt(self, max_drop: float | None) -> str | None:
        """Why it is not known whether this is a regression; None where it is known."""
        if max_drop is not None or self.verdict != "inconclusive":
            return None
        return f"{self}, within the interval of {self.pairing} answers: {self.interval}. Judge both on more images"

    @property
    def interval(self) -> str:
        """Of the difference, in points."""
        return f"{self.low * 100:+.2f} to {self.high * 100:+.2f} points"

    def __str__(self) -> str:
        return f"{self.candidate}: {self.metric} fell from {self.before:.2%} to {self.after:.2%}"

    def to_dict(self) -> dict[str, Any]:
        return {
            "candidate": self.candidate, "metric": self.metric, "before": self.before, "after": self.after,
            "images": self.images, "low": self.low, "high": self.high, "pairing": self.pairing, "verdict": self.verdict,
        }  # fmt: skip


def accuracies(before: Report, after: Report) -> tuple[list[AccuracyChange], list[str]]:
    """Every figure that both runs have, and in words those that the second run lacks; each once, whatever the batch."""
    changes: dict[tuple[Any, ...], AccuracyChange] = {}
    unknown: dict[str, None] = {}
    old, new = _judged(before), _judged(after)
    for key in (key for key in old if key in new):
        first, second = old[key].get("parity") or {}, new[key].get("parity") or {}
        for name, (metric, _) in _METRICS.items():
            whose = _REFERENCE if name.startswith("reference") else f"{key[0]} {key[2]} {key[1]}"
            was, is_now = number(first.get(name)), number(second.get(name))
            if was is not None and is_now is not None:
                changes.setdefault((whose, metric, was, is_now), _change(whose, name, old[key], new[key]))
            elif was is not None:
                unknown.setdefault(f"{whose}: {metric} was {was:.2%} and is not known now. Judge both on the same data")
    return list(_once(changes.values())), list(unknown)


def images_differ(before: Report, after: Report) -> Iterable[str]:
    """That the runs judged different images, in words."""
    old, new = _judged(before), _judged(after)
    for key in (key for key in old if key in new):
        for name in ("judged_on", "parity_data"):
            first, second = old[key].get(name), new[key].get(name)
            if first and second and first != second:
                data = [str(run[key].get("parity_data")) for run in (old, new)]
                yield f"the answers were judged on different images: of {data[0]} and of {data[1]}"
                return


def _judged(report: Report) -> dict[tuple[str, ...], Mapping[str, Any]]:
    """Rows and scenarios, by backend, device, precision and what was run."""
    entries = [(entry, str(entry.get("batch"))) for entry in report["results"]]
    entries += [(entry, str(entry.get("scenario"))) for entry in report.get("scenarios") or ()]
    return {(entry["backend"], entry["device"], entry["precision"], run): entry for entry, run in entries}


def _change(whose: str, name: str, old: Mapping[str, Any], new: Mapping[str, Any]) -> AccuracyChange:
    first, second = old["parity"], new["parity"]
    before, after = float(first[name]), float(second[name])
    counts = [int(count) if (count := number(parity.get("images"))) else None for parity in (first, second)]
    low, high, pairing = -1.0, 1.0, "unknown"
    if counts[0] and counts[1]:
        low, high = unpaired_interval(before, counts[0], after, counts[1])
        pairing = "unpaired"
        same = old.get("judged_on") is not None and old.get("judged_on") == new.get("judged_on") and counts[0] == counts[1]
        if same and (pairs := _pairs(first, second, name, counts[0])) is not None:
            low, high = paired_interval(*pairs, counts[0])
            pairing = "paired"
    return AccuracyChange(
        candidate=whose, metric=_METRICS[name][0], before=before, after=after, images=counts[1], low=low, high=high,
        pairing=pairing,
    )  # fmt: skip


def _pairs(first: Mapping[str, Any], second: Mapping[str, Any], name: str, count: int) -> tuple[int, int] | None:
    """How many images were gained and lost; None where a run did not keep it, or not of this very figure."""
    outcomes = _METRICS[name][1]
    try:
        before, after = (unpack(parity["outcomes"][outcomes], count) for parity in (first, second))
    except (KeyError, TypeError, ValueError):
        return None
    if any(abs(float(np.mean(of)) - parity[name]) > _EXACT for of, parity in ((before, first), (after, second))):
        return None
    return int((after & ~before).sum()), int((before & ~after).sum())


def _once(changes: Iterable[AccuracyChange]) -> Iterable[AccuracyChange]:
    """Without the reference's accuracy where eager is a row of its own with the same."""
    kept = list(changes)
    eager = {(change.metric, change.before, change.after) for change in kept if change.candidate == "eager fp32 cpu"}
    return (
        change for change in kept if change.candidate != _REFERENCE or (change.metric, change.before, change.after) not in eager
    )
