"""What makes a run's figures unsafe: random weights, a noisy machine, too little time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from resnet_deploy.benchmarking.report import Result, ScenarioResult
from resnet_deploy.timing.measure import NOISY_IQR


def warnings_for(results: list[Result], described: Mapping[str, Any], scenarios: Sequence[ScenarioResult] = ()) -> list[str]:
    """What makes figures unsafe, in words: at most one warning each of the weights, of noise, and of an interruption.

    Args:
        results: the rows of the sweep.
        described: the manifest's description of the model.
        scenarios: LoadGen's rows.
    """
    warnings = []
    if described["weights"]["source"] == "random":
        warnings.append("the weights are random: the speed is real, the accuracy means nothing (give --weights)")
    if reasons := _unsteady([*results, *scenarios]):
        warnings.append(
            f"the figures are not steady: {'; '.join(reasons)}. Differences of that size mean nothing: stop other programs and "
            "measure again with --fresh, or for longer with --duration"
        )
    if partial := [row for row in results if row.partial]:
        warnings.append(
            f"interrupted before the measurement ended: from fewer samples than asked for ({_named(partial, results)})"
        )
    return warnings


def _unsteady(rows: Sequence[Result | ScenarioResult]) -> list[str]:
    """Why figures are not steady, and of which rows; of each condition of the machine the worst."""
    results, reasons = [row for row in rows if isinstance(row, Result)], []
    if noisy := [row for row in results if row.noisy]:
        worst = max(row.latency_s.iqr / row.latency_s.p50 for row in noisy)
        reasons.append(
            f"latencies spread by up to {worst:.0%} of their median, of which {NOISY_IQR:.0%} is normal ({_named(noisy, rows)})"
        )
    if cold := [row for row in results if not row.warm]:
        reasons.append(f"the warm-up did not become stable ({_named(cold, rows)})")
    kinds: dict[str, list[tuple[str, Result | ScenarioResult]]] = {}
    for row in rows:
        for text in (row.conditions or {}).get("warnings", []):
            kinds.setdefault(re.sub(r"[\d.]+", "#", text), []).append((text, row))
    for seen in kinds.values():
        reasons.append(f"{max((text for text, _ in seen), key=_first_number)} ({_named([row for _, row in seen], rows)})")
    return reasons


def _first_number(text: str) -> float:
    number = re.search(r"\d+(?:\.\d+)?", text)
    return float(number[0]) if number else 0.0


def _named(some: Sequence[Result | ScenarioResult], rows: Sequence[Result | ScenarioResult]) -> str:
    """Rows in words: `onnxruntime at batch 1, 8; openvino in server`; all of several as `every row`."""
    if 1 < len(rows) == len(some):
        return "every row"
    batches: dict[str, dict[str, None]] = {}
    for row in some:
        place, where = (" at batch", str(row.batch)) if isinstance(row, Result) else (" in", row.scenario)
        batches.setdefault(row.backend + place, {})[where] = None
    return "; ".join(f"{place} {', '.join(where)}" for place, where in batches.items())
