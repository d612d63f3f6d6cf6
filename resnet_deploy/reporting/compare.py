"""Two runs of one network, row by row: what became slower, faster or wrong, and whether that is more than noise.

A row's noise is an interval of the ratio of its medians, second run over first, at 95 %:

    samples   where both runs kept raw samples: Student's, of the logarithms of each turn's median. Backends are measured in
              `ROUNDS` turns, and samples of one turn share the state of the machine: they are one piece of evidence, not
              hundreds. Degrees of freedom are those of the run with fewer turns, which errs on the side of noise.
    iqr       otherwise: each median by 1.57 IQR / sqrt(n) (McGill, Tukey and Larsen, "Variations of box plots", 1978),
              with n no more than those turns, for the same reason. Of 3 or fewer samples, and of an unknown number, the
              interval has no end.
    none      where both runs have one and the same measurement, which a bundle reuses.

A row is slower or faster where its interval leaves out 1, and the same where the interval lies within the limit on both sides
of 1 (two one-sided tests: Schuirmann 1987; without a limit, within 10 %). It is inconclusive otherwise, and wherever the
interval has the limit within it. A row is a regression where the whole interval is beyond the limit. All of that speaks of the
noise within the runs: two runs on a machine whose clocks or neighbours differ can differ truly and for no fault of the code,
which the limit is to allow for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_deploy.errors import UsageError
from resnet_deploy.parity.confidence import FEWEST, median_half_width
from resnet_deploy.reporting.accuracy import AccuracyChange, accuracies, images_differ
from resnet_deploy.reporting.context import verdict
from resnet_deploy.reporting.formatting import number
from resnet_deploy.reporting.rows import Report, Row, key_of_row, rows

ROUNDS = 6  # of `MeasureConfig`
NARROW = 0.10  # what counts as the same where no limit says it
KEPT = 600  # samples of a row that are written with a report: 100 a turn
_T = {3: 3.182, 4: 2.776, 5: 2.571}  # Student's t at 97.5 %, by degrees of freedom
_PARITY = {"cosine_mean": 1e-6, "top1_agreement": 0.0, "top1_accuracy": 0.0}  # and by how much it may differ


@dataclass(frozen=True, kw_only=True)
class Change:
    """One row in both runs.

    Attributes:
        backend, device, precision, batch: of the row.
        before_s, after_s: median latencies.
        ratio: the second over the first.
        low, high: the ratio's 95 % interval.
        noise: what the interval is made from: samples, iqr or none.
        verdict: slower, faster, same or inconclusive.
        failed: whether its gate passed in the first run alone.
        differences: in answers and settings, in words.
    """

    backend: str
    device: str
    precision: str
    batch: int
    before_s: float
    after_s: float
    ratio: float
    low: float
    high: float
    noise: str
    verdict: str
    failed: bool
    differences: list[str] = field(default_factory=list)

    @property
    def title(self) -> str:
        return f"{self.backend} {self.precision} {self.device}, batch {self.batch}"


@dataclass(frozen=True, kw_only=True)
class RunComparison:
    """Two runs, compared.

    Attributes:
        model: the architecture.
        before, after: what the runs are called.
        limit: how much slower a row may be, as a fraction.
        max_accuracy_drop: by how many percentage points an accuracy may fall; where both are None nothing is to fail.
        changes: rows that both have.
        accuracy: what became of the answers.
        unjudged: what of them is not known in the second run, in words.
        broken: what the first run had, and what failed in the second.
        only_before, only_after: rows that the other has not.
        notes: what else differs.
    """

    model: str
    before: str
    after: str
    limit: float | None
    max_accuracy_drop: float | None = None
    changes: list[Change]
    accuracy: list[AccuracyChange] = field(default_factory=list)
    unjudged: list[str] = field(default_factory=list)
    broken: list[str]
    only_before: list[str]
    only_after: list[str]
    notes: list[str]

    @property
    def margin(self) -> float:
        """How far from 1 a ratio may be and count as the same."""
        return _margin(self.limit)

    @property
    def slower(self) -> list[Change]:
        """Rows that are slower beyond noise."""
        return [change for change in self.changes if change.verdict == "slower"]

    @property
    def judged(self) -> bool:
        """Whether a limit was set."""
        return self.limit is not None or self.max_accuracy_drop is not None

    @property
    def failures(self) -> list[str]:
        """What makes the second run worse, in words, where a limit was set: rows slower by more than it, with their whole
        interval; answers that became worse; gates that passed before, scenarios that were VALID, rows whose backend now fails
        and rows that are missing."""
        if not self.judged:
            return []
        worse = [change for change in self.changes if self.limit is not None and change.low > 1 + self.limit]
        failures = [f"{change.title}: slower by {change.ratio - 1:.1%}, more than {self.limit:.1%}" for change in worse]
        failures += [failure for change in self.accuracy if (failure := change.failure(self.max_accuracy_drop)) is not None]
        failures += [f"{change.title}: its gate passed and now fails" for change in self.changes if change.failed]
        return [
            *failures,
            *self.broken,
            *(f"{row}: is in {self.before} and missing in {self.after}" for row in self.only_before),
        ]

    @property
    def inconclusive(self) -> list[str]:
        """What may make the second run worse and cannot be told from noise, in words, where a limit was set: rows whose
        interval has the limit within it, and accuracies that fell or are not known."""
        if not self.judged:
            return []
        rows = [change for change in self.changes if self.limit is not None and change.low <= 1 + self.limit < change.high]
        doubts = [
            f"{change.title}: {change.ratio:.3f} times the time before ({change.low:.3f} to {change.high:.3f}), which may be "
            f"more than {self.limit:.1%} slower. Measure both longer, or on a quieter machine"
            for change in rows
        ]
        return doubts + [doubt for change in self.accuracy if (doubt := change.doubt(self.max_accuracy_drop))] + self.unjudged

    def to_dict(self) -> dict[str, Any]:
        """As JSON: an interval without an end has null there."""
        changes = [asdict(change) | {"high": change.high if math.isfinite(change.high) else None} for change in self.changes]
        return {
            **asdict(self), "changes": changes, "accuracy": [change.to_dict() for change in self.accuracy],
            "failures": self.failures, "inconclusive": self.inconclusive,
        }  # fmt: skip


def compare_reports(
    before: Report,
    after: Report,
    *,
    names: tuple[str, str] = ("A", "B"),
    limit: float | None = None,
    max_accuracy_drop: float | None = None,
) -> RunComparison:
    """Compare two reports.

    Args:
        before, after: dicts, as `load_report` gives them.
        names: what to call them.
        limit, max_accuracy_drop: as `RunComparison` has them.

    Returns:
        Every row and every accuracy that both have, and what one lacks.

    Raises:
        UsageError: they are of different networks, inputs or heads: their times would say nothing of each other.
    """
    _same_network(before, after, names)
    old, new = ({row.key: row for row in rows(report)} for report in (before, after))
    both = [(row, new[key]) for key, row in old.items() if key in new]
    failed = {_key(row): str(row.get("error") or "unknown") for row in after.get("unmeasured") or ()}
    broken = [f"{row.title}: was measured and now fails: {failed[key]}" for key, row in old.items() if key in failed]
    accuracy, unjudged = accuracies(before, after)
    comparison = RunComparison(
        model=str(before["model"].get("architecture")), before=names[0], after=names[1], limit=limit,
        max_accuracy_drop=max_accuracy_drop, accuracy=accuracy, unjudged=unjudged,
        changes=[_change(*pair, limit) for pair in both], broken=[*broken, *_scenarios(before, after)],
        only_before=[row.title for key, row in old.items() if key not in new and key not in failed],
        only_after=[row.title for key, row in new.items() if key not in old], notes=_notes(before, after, both),
    )  # fmt: skip
    if not (comparison.changes or comparison.broken):
        raise UsageError(
            f"{names[0]} and {names[1]} have no row in common: {', '.join(comparison.only_before) or 'none'} and "
            f"{', '.join(comparison.only_after) or 'none'}. Measure the same backends, precisions and batches"
        )
    return comparison


def _key(row: Mapping[str, Any]) -> str:
    return key_of_row(row["backend"], row["device"], row["precision"], row.get("batch"))


def _scenarios(before: Report, after: Report) -> list[str]:
    """Scenarios that were VALID and are not any more, or are missing, and whose gate passed and fails."""
    old, new = (
        {
            (scenario["backend"], scenario["device"], scenario["precision"], str(scenario.get("scenario"))): scenario
            for scenario in report.get("scenarios") or ()
        }
        for report in (before, after)
    )
    broken = []
    for key, scenario in old.items():
        name, then = ", ".join(key), new.get(key)
        if scenario.get("valid") and then is None:
            broken.append(f"{name}: was VALID and is missing")
        elif scenario.get("valid") and then is not None and not then.get("valid"):
            broken.append(f"{name}: was VALID and is {verdict(then)}: {then.get('error') or then.get('reason')}")
        if then is not None and scenario.get("gate") == "pass" and then.get("gate") == "fail":
            broken.append(f"{name}: its gate passed and now fails")
    return broken


def _same_network(before: Report, after: Report, names: tuple[str, str]) -> None:
    for what, key in (("architecture",) * 2, ("number of classes", "num_classes"), ("head",) * 2, ("input",) * 2):
        old, new = (report["model"].get(key) for report in (before, after))
        if old != new:
            raise UsageError(
                f"{names[0]} and {names[1]} are not of one model: the {what} is {old} and {new}. "
                "Compare two runs of the same one"
            )


def _notes(before: Report, after: Report, both: Sequence[tuple[Row, Row]]) -> list[str]:
    """What else differs between the runs and can explain a change."""
    runs = (before, after)
    pairs: dict[str, list[Any]] = {
        "weights": [(run["model"].get("weights") or {}).get("sha256") for run in runs],
        "CPU": [run["machine"].get("cpu") for run in runs],
        "number of cores": [run["machine"].get("cores") for run in runs],
        "preprocessing": [run["model"].get("preprocessing") for run in runs],
        "GPUs": [[gpu.get("name") for gpu in run["machine"].get("gpus") or ()] for run in runs],
    }
    notes = [f"the {name} differ: {old} and {new}" for name, (old, new) in pairs.items() if old != new]
    old, new = (run["machine"].get("packages") or {} for run in runs)
    notes += [
        f"{name} was {old.get(name, 'missing')} and is {new.get(name, 'missing')}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    if noisy := [after.title for before, after in both if before.noisy or after.noisy]:
        notes.append(f"noisy in one of the runs: {', '.join(noisy)}")
    return [*notes, *images_differ(before, after)]


def _change(old: Row, new: Row, limit: float | None) -> Change:
    ratio = new.p50_s / old.p50_s
    low, high, noise = _interval(old, new)
    return Change(
        backend=old.backend, device=old.device, precision=old.precision, batch=old.batch, before_s=old.p50_s, after_s=new.p50_s,
        ratio=ratio, low=low, high=high, noise=noise, verdict=judge_interval(low, high, limit),
        failed=old.passed and not new.passed, differences=_differences(old, new),
    )  # fmt: skip


def _margin(limit: float | None) -> float:
    return NARROW if limit is None else limit


def judge_interval(low: float, high: float, limit: float | None) -> str:
    """What the interval of a ratio of latencies says, second run over first: slower, faster, same or inconclusive."""
    most = 1 + _margin(limit)
    if limit is not None and low <= most < high:
        return "inconclusive"
    if low > 1 or high < 1:
        return "slower" if low > 1 else "faster"
    return "same" if 1 / most <= low and high <= most else "inconclusive"


def _interval(old: Row, new: Row) -> tuple[float, float, str]:
    """The 95 % interval of the ratio of medians, holding the ratio itself."""
    ratio = new.p50_s / old.p50_s
    if _is_one_measurement(old, new):
        return ratio, ratio, "none"
    if min(len(old.host_s), len(new.host_s)) >= FEWEST:
        before, after = _turns(old.host_s), _turns(new.host_s)
        spread = math.sqrt(sum(float(np.var(turns, ddof=1)) / len(turns) for turns in (before, after)))
        half = _T[min(len(before), len(after)) - 1] * spread
        change = float(np.mean(after) - np.mean(before))
        return min(math.exp(change - half), ratio), max(math.exp(change + half), ratio), "samples"
    first, second = _notch(old), _notch(new)
    if first is None or second is None:
        return 0.0, math.inf, "iqr"
    low = max(0.0, new.p50_s - second) / (old.p50_s + first)
    high = (new.p50_s + second) / (old.p50_s - first) if old.p50_s > first else math.inf
    return low, high, "iqr"


def _is_one_measurement(old: Row, new: Row) -> bool:
    """A bundle reuses what it has: two runs can hold the same figures of the same time."""
    same = old.result["latency_s"] == new.result["latency_s"] and old.samples == new.samples
    return same and old.result.get("measured") is not None and old.result["measured"] == new.result.get("measured")


def _notch(row: Row) -> float | None:
    """Half of a median's interval, in seconds; None where there are too few samples to have one."""
    return median_half_width(row.iqr_s, row.samples, ROUNDS)


def evenly(samples: Sequence[float], kept: int = KEPT) -> NDArray[np.float64]:
    """At most so many of a row's samples, evenly over the time of its measurement: (min(n, kept),)."""
    values = np.asarray(samples, np.float64)
    return np.asarray(values[np.linspace(0, len(values) - 1, min(len(values), kept)).round().astype(int)])


def _turns(samples: Sequence[float]) -> NDArray[np.float64]:
    """The logarithm of each turn's median: (min(n, ROUNDS),)."""
    parts = np.array_split(np.asarray(samples, np.float64), min(len(samples), ROUNDS))
    return np.log([np.median(part) for part in parts])


def _differences(old: Row, new: Row) -> list[str]:
    differences = [] if old.passed == new.passed else [f"the gate was {_gate(old)} and is {_gate(new)}"]
    for name, least in _PARITY.items():
        first, second = number(old.parity.get(name)), number(new.parity.get(name))
        if first is not None and second is not None and abs(second - first) > least:
            differences.append(f"{name} was {first:.6g} and is {second:.6g}")
    before, after = ({**(row.result.get("settings") or {}), "threads": row.result.get("threads")} for row in (old, new))
    changed = [name for name in before if name in after and before[name] != after[name]]
    return differences + [f"{name} was {before[name]} and is {after[name]}" for name in changed]


def _gate(row: Row) -> str:
    return "passed" if row.passed else "failed"
