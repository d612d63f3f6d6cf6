"""What a gate judged: each condition with the figure that was found, in words. The gates themselves are in `metrics`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from resnet_deploy._figures import SPELLED, Figure
from resnet_deploy.parity.metrics import METRICS, Gate, ParityReport
from resnet_deploy.precisions import Precision

_NAMES = {  # what a reader calls each metric, from the one that tells most to the one that tells least
    "relative-accuracy": "accuracy", "accuracy-difference": "top-1 accuracy", "top1-accuracy": "top-1 accuracy",
    "top1-agreement": "top-1 agreement", "top5-agreement": "top-5 agreement", "cosine-mean": "mean cosine",
    "cosine-min": "lowest cosine", "max-rel-error": "max relative error", "mean-abs-error": "mean error",
    "max-abs-error": "max error",
}  # fmt: skip
_UNITS = {"relative-accuracy": "% of FP32", "accuracy-difference": " points from FP32"}
_DIGITS = range(4, 16)  # significant ones of a figure that is written


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
        found = f"{_apart(self.value * 100, self.limit * 100, sign)}{_UNITS.get(self.metric, unit)}"
        return f"{name} {found}, needs {self.limit * 100:{sign}.6g}{'' if sign else unit}"


def _apart(value: float, limit: float, sign: str = "") -> str:
    """A figure with as many digits as show on which side of the limit it is."""
    texts = [f"{value:{sign}.{digits}g}" for digits in _DIGITS]
    return next((text for text in texts if math.isnan(value) or (float(text) < limit) == (value < limit)), texts[-1])


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
    checks = []
    for metric, limit in {**precision.row.gates, **limits}.items():
        value = getattr(report, metric.replace("-", "_"))
        if value is not None:
            passed = Gate(metric=metric, limit=limit).judge(report) is None
            checks.append(GateCheck(metric=metric, value=value, limit=limit, passed=passed))
    order = list(_NAMES)
    return sorted(checks, key=lambda check: (check.passed, check.metric not in limits, order.index(check.metric)))


def describe_gates(checks: Sequence[GateCheck], failures: Sequence[str] = ()) -> str:
    """What a gate judged, in words: all conditions that fail, or of those that hold the one that tells most.

    Args:
        checks: as `check_gates` gives them.
        failures: why the gate failed, where there are no checks that say it.
    """
    failed = [str(check) for check in checks if not check.passed]
    return "; ".join(failed or failures or [str(check) for check in checks[:1]])
