"""Two runs of one network, row by row: what became slower or faster, and whether that is more than noise.

A row's noise is an interval of the ratio of its medians, second run over first, at 95 %:

    samples   where both runs kept raw samples: Student's, of the logarithms of each turn's median. Backends are measured in
              `ROUNDS` turns, and samples of one turn share the state of the machine: they are one piece of evidence, not
              hundreds. Degrees of freedom are those of the run with fewer turns, which errs on the side of noise.
    iqr       otherwise: each median by 1.57 IQR / sqrt(n) (McGill, Tukey and Larsen, "Variations of box plots", 1978),
              with n no more than those turns, for the same reason.

A change is beyond noise where the interval leaves out 1. That speaks of the noise within the runs: two runs on a machine
whose clocks or neighbours differ can differ truly and for no fault of the code, which is why a limit in percent stands
beside it. Rows of 3 or fewer samples, and of an unknown number, are never beyond noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_deploy.errors import UsageError
from resnet_deploy.reporting.background import verdict
from resnet_deploy.reporting.rows import Report, Row, key_of_row, rows
from resnet_deploy.reporting.words import number

ROUNDS = 6  # of `MeasureConfig`
KEPT = 600  # samples of a row that are written with a report: 100 a turn
_T = {3: 3.182, 4: 2.776, 5: 2.571}  # Student's t at 97.5 %, by degrees of freedom
_FEWEST = 4
_PARITY = {"cosine_mean": 1e-6, "top1_agreement": 0.0, "top1_accuracy": 0.0}  # and by how much it may differ


@dataclass(frozen=True, kw_only=True)
class Change:
    """One row in both runs. ratio: of median latency, second over first; low and high: its interval at 95 %. noise: what the
    interval is made from: samples or iqr. verdict: slower, faster or same, beyond noise. failed: its gate passed in the first
    run alone. differences: in answers and settings, in words."""

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
    """Two runs. limit: how much slower a row may be, as a fraction; None where nothing is to fail. broken: what the first run
    had, and what failed in the second. only_before, only_after: rows that the other has not. notes: what else differs."""

    model: str
    before: str
    after: str
    limit: float | None
    changes: list[Change]
    broken: list[str]
    only_before: list[str]
    only_after: list[str]
    notes: list[str]

    @property
    def slower(self) -> list[Change]:
        """Rows that are slower beyond noise."""
        return [change for change in self.changes if change.verdict == "slower"]

    @property
    def failures(self) -> list[str]:
        """What makes the second run worse, in words, where a limit was set: rows slower by more than it and beyond noise, gates
        that passed before, scenarios that were VALID, rows whose backend now fails."""
        if self.limit is None:
            return []
        worse = [change for change in self.slower if change.ratio > 1 + self.limit]
        found = [f"{change.title}: slower by {change.ratio - 1:.1%}, more than {self.limit:.1%}" for change in worse]
        found += [f"{change.title}: its gate passed and now fails" for change in self.changes if change.failed]
        return found + self.broken

    def to_dict(self) -> dict[str, Any]:
        """As JSON: an interval without an end has null there."""
        changes = [asdict(change) | {"high": change.high if math.isfinite(change.high) else None} for change in self.changes]
        return {**asdict(self), "changes": changes, "failures": self.failures}


def compare_reports(
    before: Report, after: Report, *, names: tuple[str, str] = ("A", "B"), limit: float | None = None
) -> RunComparison:
    """Compare two reports, dicts as `load_report` gives them. names: what to call them. limit: as RunComparison has it.

    Raises UsageError where they are of different networks, inputs or heads: their times would say nothing of each other.
    """
    _same_network(before, after, names)
    old, new = ({row.key: row for row in rows(report)} for report in (before, after))
    both = [(row, new[key]) for key, row in old.items() if key in new]
    lost = {_key(one): str(one.get("error") or "unknown") for one in after.get("unmeasured") or ()}
    broken = [f"{row.title}: was measured and now fails: {lost[key]}" for key, row in old.items() if key in lost]
    found = RunComparison(
        model=str(before["model"].get("architecture")), before=names[0], after=names[1], limit=limit,
        changes=[_change(*pair) for pair in both], broken=[*broken, *_scenarios(before, after)],
        only_before=[row.title for key, row in old.items() if key not in new],
        only_after=[row.title for key, row in new.items() if key not in old], notes=_notes(before, after, both),
    )  # fmt: skip
    if not (found.changes or found.broken):
        raise UsageError(
            f"{names[0]} and {names[1]} have no row in common: {', '.join(found.only_before) or 'none'} and "
            f"{', '.join(found.only_after) or 'none'}. Measure the same backends, precisions and batches"
        )
    return found


def _key(one: Mapping[str, Any]) -> str:
    return key_of_row(one["backend"], one["device"], one["precision"], one.get("batch"))


def _scenarios(before: Report, after: Report) -> list[str]:
    """Scenarios that were VALID and are not any more."""
    old, new = (
        {
            (one["backend"], one["device"], one["precision"], str(one.get("scenario"))): one
            for one in report.get("scenarios") or ()
        }
        for report in (before, after)
    )
    return [
        f"{', '.join(key)}: was VALID and is {verdict(new[key])}: {new[key].get('error') or new[key].get('reason')}"
        for key in old
        if key in new and old[key].get("valid") and not new[key].get("valid")
    ]


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
        "GPUs": [[gpu.get("name") for gpu in run["machine"].get("gpus") or ()] for run in runs],
    }
    found = [f"the {name} differ: {old} and {new}" for name, (old, new) in pairs.items() if old != new]
    old, new = (run["machine"].get("packages") or {} for run in runs)
    found += [
        f"{name} was {old.get(name, 'missing')} and is {new.get(name, 'missing')}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
    if noisy := [after.title for before, after in both if before.noisy or after.noisy]:
        found.append(f"noisy in one of the runs: {', '.join(noisy)}")
    return found


def _change(old: Row, new: Row) -> Change:
    ratio = new.p50_s / old.p50_s
    low, high, noise = _interval(old, new)
    return Change(
        backend=old.backend, device=old.device, precision=old.precision, batch=old.batch, before_s=old.p50_s, after_s=new.p50_s,
        ratio=ratio, low=low, high=high, noise=noise, verdict="slower" if low > 1 else "faster" if high < 1 else "same",
        failed=old.passed and not new.passed, differences=_differences(old, new),
    )  # fmt: skip


def _interval(old: Row, new: Row) -> tuple[float, float, str]:
    """The 95 % interval of the ratio of medians, holding the ratio itself."""
    ratio = new.p50_s / old.p50_s
    if min(len(old.host_s), len(new.host_s)) >= _FEWEST:
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


def _notch(row: Row) -> float | None:
    """Half of a median's interval, in seconds; None where there are too few samples to have one."""
    return None if row.samples < _FEWEST else 1.57 * row.iqr_s / math.sqrt(min(row.samples, ROUNDS))


def evenly(samples: Sequence[float], kept: int = KEPT) -> NDArray[np.float64]:
    """At most so many of a row's samples, evenly over the time of its measurement: (min(n, kept),)."""
    values = np.asarray(samples, np.float64)
    return np.asarray(values[np.linspace(0, len(values) - 1, min(len(values), kept)).round().astype(int)])


def _turns(samples: Sequence[float]) -> NDArray[np.float64]:
    """The logarithm of each turn's median: (min(n, ROUNDS),)."""
    parts = np.array_split(np.asarray(samples, np.float64), min(len(samples), ROUNDS))
    return np.log([np.median(part) for part in parts])


def _differences(old: Row, new: Row) -> list[str]:
    found = [] if old.passed == new.passed else [f"the gate was {_gate(old)} and is {_gate(new)}"]
    for name, least in _PARITY.items():
        first, second = number(old.parity.get(name)), number(new.parity.get(name))
        if first is not None and second is not None and abs(second - first) > least:
            found.append(f"{name} was {first:.6g} and is {second:.6g}")
    before, after = ({**(row.result.get("settings") or {}), "threads": row.result.get("threads")} for row in (old, new))
    changed = [name for name in before if name in after and before[name] != after[name]]
    return found + [f"{name} was {before[name]} and is {after[name]}" for name in changed]


def _gate(row: Row) -> str:
    return "passed" if row.passed else "failed"
