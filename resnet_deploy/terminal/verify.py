"""Verdicts, and where blocks differ from eager, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resnet_deploy.terminal.tables import table

if TYPE_CHECKING:
    from resnet_deploy.parity.metrics import ParityReport
    from resnet_deploy.pipeline.compare_layers import Divergence
    from resnet_deploy.pipeline.verify import Verdict


def verified(verdicts: list[Verdict], divergence: Divergence | None) -> str:
    return "\n\n".join([_verdicts(verdicts), *([] if divergence is None else [_layers(divergence)])])


def _verdicts(verdicts: list[Verdict]) -> str:
    from resnet_deploy.parity.gates import describe_gates

    about = verdicts[0].data
    columns = {str(verdict.candidate): verdict for verdict in verdicts}
    hidden = {"images", "outcomes", "accuracy_difference_low", "accuracy_difference_high", "mcnemar_p"}
    names = [name for name in verdicts[0].report.to_dict() if name not in hidden]
    rows = [{"": name, **{column: _of(verdict.report, name) for column, verdict in columns.items()}} for name in names]
    rows.append({"": "judged", **{column: describe_gates(v.checks, v.failures) for column, v in columns.items()}})
    rows.append({"": "gate", **{column: verdict.gate for column, verdict in columns.items()}})
    crops = f" ({about.crops} crops each)" if about.crops > 1 else ""
    head = f"{about.images} images of {about.source}{crops}, against eager PyTorch\npixels {verdicts[0].preprocessing}"
    return f"{head}\n\n{table(rows)}"


def _of(report: ParityReport, name: str) -> str:
    """A figure of a report; of the difference in accuracy, its interval too."""
    from resnet_deploy.parity.confidence import describe_difference

    low, high = report.accuracy_difference_low, report.accuracy_difference_high
    if name == "accuracy_difference" and report.accuracy_difference is not None and low is not None and high is not None:
        return describe_difference(report.accuracy_difference, low, high)
    return _figure(getattr(report, name))


def _layers(divergence: Divergence) -> str:
    rows = [
        {"block": block, **{file: f"{d.relative_error:.1e}  {d.cosine:.5f}" for file, d in differences.items()}}
        for block, differences in divergence.blocks.items()
    ]
    differing = [f"{file} differs from eager from {block} on" for file, block in divergence.first.items() if block is not None]
    return "\n".join(
        [
            f"relative error and mean cosine of what leaves each block, on {divergence.images} images",
            "",
            table(rows),
            "",
            "; ".join(differing) or "no file differs from eager",
        ]
    )


def _figure(value: Any) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, bool) else f"{value:.6g}"
