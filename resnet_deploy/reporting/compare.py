"""Two runs of one network, row by row: what became slower, faster or wrong; `noise` says whether that is more than noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from resnet_deploy.errors import UsageError
from resnet_deploy.reporting.accuracy import AccuracyChange, accuracies, images_differ
from resnet_deploy.reporting.context import loadgen_verdict
from resnet_deploy.reporting.formatting import number
from resnet_deploy.reporting.noise import judge_interval, margin_of, ratio_interval
from resnet_deploy.reporting.rows import Report, Row, key_of_row, parse_rows

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
        return margin_of(self.limit)

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
    old, new = ({row.key: row for row in parse_rows(report)} for report in (before, after))
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
            broken.append(f"{name}: was VALID and is {loadgen_verdict(then)}: {then.get('error') or then.get('reason')}")
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
    low, high, noise = ratio_interval(old, new)
    return Change(
        backend=old.backend, device=old.device, precision=old.precision, batch=old.batch, before_s=old.p50_s, after_s=new.p50_s,
        ratio=ratio, low=low, high=high, noise=noise, verdict=judge_interval(low, high, limit),
        failed=old.passed and not new.passed, differences=_differences(old, new),
    )  # fmt: skip


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
