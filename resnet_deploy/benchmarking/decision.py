"""What to deploy: the one answer that a benchmark is run for, or why there is none.

Of the files that pass their gate, are faster than eager PyTorch at the same batch and were measured well enough to tell, the
one with the most images a second. Of those that are within noise of it, the one with the highest precision, then with the
smallest batch. REFERENCE.md has the rule for users.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from resnet_deploy.backends.table import BACKENDS
from resnet_deploy.benchmarking.advice import TIE
from resnet_deploy.benchmarking.report import Decision, Result
from resnet_deploy.parity.confidence import describe_difference, median_half_width
from resnet_deploy.parity.gates import describe_gates
from resnet_deploy.precisions import PRECISIONS
from resnet_deploy.timing.measure import MeasureConfig

TOO_NOISY = 0.25  # of a median: half of its interval, beyond which a row says nothing


def decide(results: Sequence[Result], *, random_weights: bool = False) -> Decision | None:
    """Choose among a run's rows.

    Args:
        results: the rows; plain eager PyTorch in FP32 is what the others are compared with.
        random_weights: the answers mean nothing, so the decision is about speed alone.

    Returns:
        The decision; None where there are no rows.
    """
    eager = [row for row in results if _is_eager(row)]
    files = [row for row in results if not _is_eager(row) and "simulate" not in row.backend]
    if not files:
        return None if not results else _none("nothing but eager PyTorch was measured; add --backend onnxruntime, for example")
    passing = [row for row in files if row.gate == "pass"]
    if not passing:
        return _none(f"no gate passed. {_failures(files)}")
    steady = [row for row in passing if uncertainty(row) <= TOO_NOISY]
    if not steady:
        return _none("every measurement is too noisy to tell; stop other programs and measure again with --fresh")
    faster = [row for row in steady if (base := baseline(row, eager)) is None or beats(row, base)]
    if not faster:
        speedups = [(row.images_per_s / base.images_per_s, row) for row in steady if (base := baseline(row, eager))]
        speedup, nearest = max(speedups, key=lambda pair: pair[0])
        return _none(
            f"nothing is faster than eager PyTorch beyond noise. The nearest is {_called(nearest)}, {_times(speedup)} eager"
        )
    fastest = max(faster, key=lambda row: row.images_per_s)
    ties = [row for row in faster if not beats(fastest, row)]
    chosen = min(ties, key=lambda row: (_risk(row.precision), row.batch, -row.images_per_s))
    if ahead := [row for row in eager if row.device == chosen.device and beats(row, chosen)]:
        best = max(ahead, key=lambda row: row.images_per_s)
        return _none(
            f"eager PyTorch at batch {best.batch} gives {best.images_per_s:,.0f} images/s, and the fastest file,"
            f" {_called(chosen)}, {chosen.images_per_s:,.0f}"
        )
    return _decision(results, chosen, baseline(chosen, eager), random_weights)


def uncertainty(row: Result) -> float:
    """Half of the 95 % interval of a row's median, as a fraction of it; infinite of too few samples to have one."""
    half = median_half_width(row.latency_s.iqr, row.samples, MeasureConfig.rounds)
    return math.inf if half is None else half / row.latency_s.p50


def beats(row: Result, other: Result) -> bool:
    """Whether a row gives more images a second than another, beyond noise."""
    return row.images_per_s > other.images_per_s * (1 + max(TIE, uncertainty(row) + uncertainty(other)))


def baseline(row: Result, eager: Sequence[Result]) -> Result | None:
    """Eager PyTorch at a row's batch, on its device where that was measured; None where there is none."""
    same = [base for base in eager if base.batch == row.batch]
    return min(same, key=lambda base: base.device != row.device, default=None)


def _is_eager(row: Result) -> bool:
    """Whether a row is what others are compared with: eager PyTorch without options, in FP32."""
    return (row.backend, row.precision) == ("eager", "fp32")


def _none(reason: str) -> Decision:
    return Decision(kind="none", text=f"Nothing to deploy: {reason}.", reason=reason)


def _decision(results: Sequence[Result], row: Result, base: Result | None, random_weights: bool) -> Decision:
    report, speedup = row.parity, None if base is None else row.images_per_s / base.images_per_s
    over = "eager was not measured" if base is None or speedup is None else f"{_times(speedup)} eager"
    if base is not None and base.device != row.device:
        over += f" on {base.device}"
    figures = [f"{row.images_per_s:,.0f} images/s", over, *([] if random_weights else [_answers(row)])]
    figures += [] if row.size_bytes is None else [_megabytes(row.size_bytes)]
    reason = "the weights are random, so the answers mean nothing; give --weights to decide" if random_weights else None
    noisy = " The measurement is noisy." if row.noisy or (base is not None and base.noisy) else ""
    text = f"{_called(row)}: {', '.join(figures)}.{noisy}"
    return Decision(
        kind="speed-only" if random_weights else "deploy", reason=reason,
        text=f"Deploy {text}" if reason is None else f"Fastest is {text} Only the speed is known: {reason}.",
        row=results.index(row), eager=None if base is None else results.index(base), artifact=row.artifact,
        size_bytes=row.size_bytes, backend=row.backend, device=row.device, precision=row.precision, batch=row.batch,
        images_per_s=row.images_per_s, speedup=speedup,
        **{name: report.get(name) for name in ("accuracy_difference", "accuracy_difference_low", "accuracy_difference_high")},
    )  # fmt: skip


def _answers(row: Result) -> str:
    """What the speed costs: top-1 with its interval where there are labels, else what is known."""
    parts = [row.parity.get(f"accuracy_difference{part}") for part in ("", "_low", "_high")]
    known = [part for part in parts if isinstance(part, float)]
    if len(known) == len(parts):
        return f"top-1 {describe_difference(*known)}"
    agreement = row.parity.get("top1_agreement")
    same = f"the class of eager for {agreement:.2%} of the images" if isinstance(agreement, float) else ""
    return f"{same or describe_gates(row.gates) or 'its gate passed'} (accuracy unknown without labelled --data)"


def _failures(files: Sequence[Result]) -> str:
    """Of each file once, why its gate failed."""
    reasons = [f"{_runs(row)}: {describe_gates(row.gates, row.failures)}" for row in files]
    return "; ".join(dict.fromkeys(reasons))


def _risk(precision: str) -> int:
    """How much a precision can change answers: FP32 least, then as the table has them."""
    names = list(PRECISIONS)
    return names.index(precision) if precision in names else len(names)


def _called(row: Result) -> str:
    return f"{_runs(row)} at batch {row.batch}"


def _runs(row: Result) -> str:
    """A file and what runs it: `model.int8.onnx with OpenVINO`."""
    name, _, options = row.backend.partition(":")
    title = BACKENDS[name].title if name in BACKENDS else ""
    runtime = (title or name) + (f" ({options.replace(',', ', ')})" if options else "")
    on = "" if row.device == "cpu" or name.startswith("tensorrt") else f" on {row.device}"
    return f"{row.artifact or f'the {row.precision} file'} with {runtime}{on}"


def _megabytes(size_bytes: int) -> str:
    megabytes = size_bytes / 1e6
    return f"{megabytes:.2g} MB" if megabytes < 10 else f"{megabytes:,.0f} MB"


def _times(ratio: float) -> str:
    return f"{ratio:.2f}x" if ratio < 2 else f"{ratio:.1f}x"
