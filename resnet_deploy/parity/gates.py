"""Conditions on how answers differ: what fails, and what was judged, in words."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from resnet_deploy._figures import SPELLED, Figure
from resnet_deploy.errors import UsageError
from resnet_deploy.limits import parse_finite
from resnet_deploy.parity.metrics import ParityReport
from resnet_deploy.precisions import Precision
from resnet_deploy.specs import listed

_NAMES = {  # what a reader calls each metric, from the one that tells most to the one that tells least
    "relative-accuracy": "accuracy", "accuracy-difference": "top-1 accuracy", "top1-accuracy": "top-1 accuracy",
    "top1-agreement": "top-1 agreement", "top5-agreement": "top-5 agreement", "cosine-mean": "mean cosine",
    "cosine-min": "lowest cosine", "max-rel-error": "max relative error", "mean-abs-error": "mean error",
    "max-abs-error": "max error",
}  # fmt: skip
_UNITS = {"relative-accuracy": "% of FP32", "accuracy-difference": " points from FP32"}
_DIGITS = range(4, 16)  # significant ones of a figure that is written

# Metrics that a gate can be set on; True where more is better.
METRICS: dict[str, bool] = dict.fromkeys(("max-abs-error", "mean-abs-error", "max-rel-error"), False) | dict.fromkeys(
    ("cosine-mean", "cosine-min", "top1-agreement", "top5-agreement", "top1-accuracy", "relative-accuracy",
     "accuracy-difference"), True,
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Gate:
    """One condition on a ParityReport.

    Attributes:
        metric: a name of METRICS.
        limit: finite; the metric's least or greatest value, as the metric has it.
        required: whether a user set it, and not a default.
    """

    metric: str
    limit: float
    required: bool = False

    def __post_init__(self) -> None:
        if not math.isfinite(self.limit):
            raise UsageError(f"the gate on {self.metric} needs a finite number; found {self.limit}")

    def value(self, report: ParityReport) -> float | None:
        """The figure that it is about; None where the head or the data does not give it."""
        figure: float | None = getattr(report, self.metric.replace("-", "_"))
        return figure

    def judge(self, report: ParityReport) -> str | None:
        """None where it holds, else what was found: NaN never holds. A metric that the head has not is an error only if it is
        required."""
        value = self.value(report)
        if value is None:
            if self.required:
                raise UsageError(f"there is no {self.metric} here: this head or this data does not give it")
            return None
        holds = value >= self.limit if METRICS[self.metric] else value <= self.limit
        return None if holds else f"{self.metric} is {value:.6g}, {self}"

    def __str__(self) -> str:
        return f"gate {'>=' if METRICS[self.metric] else '<='} {self.limit:g}"


@dataclass(frozen=True, kw_only=True)
class GateCheck:
    """One condition of a gate, and what was found.

    Attributes:
        metric: as `--gate` names it.
        value: the figure that was found; may be NaN or infinite.
        limit: what it had to reach, or must not exceed.
        passed: whether it holds.
    """

    metric: str
    value: Figure
    limit: float
    passed: bool

    def __post_init__(self) -> None:
        if isinstance(self.value, str):  # as JSON spells what is not finite
            object.__setattr__(self, "value", SPELLED[self.value])

    def __str__(self) -> str:
        """As in `accuracy 98.9% of FP32, needs 99%` and `max relative error 2e-07, at most 0.0001`."""
        name = _NAMES.get(self.metric, self.metric)
        if not METRICS.get(self.metric, True):
            return f"{name} {self.value:.1e}, at most {self.limit:g}"
        if self.metric.startswith("cosine"):
            return f"{name} {_apart(self.value, self.limit)}, needs {self.limit:g}"
        sign, unit = ("+", _UNITS[self.metric]) if self.metric == "accuracy-difference" else ("", "%")
        value = f"{_apart(self.value * 100, self.limit * 100, sign)}{_UNITS.get(self.metric, unit)}"
        return f"{name} {value}, needs {self.limit * 100:{sign}.6g}{'' if sign else unit}"


def _apart(value: float, limit: float, sign: str = "") -> str:
    """A figure with as many digits as show on which side of the limit it is."""
    texts = [f"{value:{sign}.{digits}g}" for digits in _DIGITS]
    return next((text for text in texts if math.isnan(value) or (float(text) < limit) == (value < limit)), texts[-1])


def parse_gates(texts: str | Iterable[str]) -> dict[str, float]:
    """Read a gate like `top1-agreement=0.99`, or several. Raises UsageError."""
    gates: dict[str, float] = {}
    for text in listed(texts):
        metric, _, limit = text.partition("=")
        metric = metric.strip().replace("_", "-")
        if metric not in METRICS:
            raise UsageError(f"unknown metric in the gate {text!r}; choose from {', '.join(METRICS)}")
        try:
            gates[metric] = Gate(metric=metric, limit=parse_finite(limit)).limit
        except ValueError:
            raise UsageError(f"the gate {text!r} needs a finite number, as in top1-agreement=0.99") from None
    return gates


def _conditions(precision: Precision, limits: Mapping[str, float]) -> list[Gate]:
    """The precision's default gates, with those that were asked for in their place or beside them."""
    merged = {**precision.row.gates, **limits}
    return [Gate(metric=metric, limit=limit, required=metric in limits) for metric, limit in merged.items()]


def judge(report: ParityReport, precision: Precision, limits: Mapping[str, float] | None = None) -> list[str]:
    """Judge a report by a precision's default gates, with those asked for in their place. NaN or Inf always fails.

    Args:
        report: how the answers differ.
        precision: of the candidate.
        limits: by metric, as `parse_gates` gives them.

    Returns:
        What fails, in words; empty where all hold.
    """
    if not report.finite:
        return ["the outputs have NaN or Inf"]
    return [failure for gate in _conditions(precision, limits or {}) if (failure := gate.judge(report)) is not None]


def check_gates(report: ParityReport, precision: Precision, limits: Mapping[str, float]) -> list[GateCheck]:
    """Every condition that is judged, those that fail first, and then what tells most.

    Args:
        report: how the answers differ.
        precision: whose default gates are judged.
        limits: conditions in place of or beside these, by metric.

    Returns:
        A check for each metric that the report has; none for outputs with NaN or Inf, which fail whatever the gates are.
    """
    if not report.finite:
        return []
    checks = [
        GateCheck(metric=gate.metric, value=value, limit=gate.limit, passed=gate.judge(report) is None)
        for gate in _conditions(precision, limits)
        if (value := gate.value(report)) is not None
    ]
    order = list(_NAMES)
    return sorted(checks, key=lambda check: (check.passed, check.metric not in limits, order.index(check.metric)))


def describe_gates(checks: Sequence[GateCheck], failures: Sequence[str] = ()) -> str:
    """What a gate judged, in words: all conditions that fail, or of those that hold the one that tells most.

    Args:
        checks: as `check_gates` gives them.
        failures: why the gate failed, where there are no checks that say it.

    Returns:
        One line.
    """
    failed = [str(check) for check in checks if not check.passed]
    return "; ".join(failed or failures or [str(check) for check in checks[:1]])
