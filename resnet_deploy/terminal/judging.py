"""What was judged on data, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resnet_deploy.terminal.tables import table

if TYPE_CHECKING:
    from resnet_deploy.parity.metrics import ParityReport
    from resnet_deploy.pipeline.compare_layers import Divergence
    from resnet_deploy.pipeline.verify import Verdict
    from resnet_deploy.precision.tune import Tuning


def verdicts(found: list[Verdict]) -> str:
    from resnet_deploy.parity.gates import describe_gates

    about = found[0].data
    columns = {str(verdict.candidate): verdict for verdict in found}
    hidden = {"images", "outcomes", "accuracy_difference_low", "accuracy_difference_high", "mcnemar_p"}
    names = [name for name in found[0].report.to_dict() if name not in hidden]
    rows = [{"": name, **{column: _of(verdict.report, name) for column, verdict in columns.items()}} for name in names]
    rows.append({"": "judged", **{column: describe_gates(v.checks, v.failures) for column, v in columns.items()}})
    rows.append({"": "gate", **{column: verdict.gate for column, verdict in columns.items()}})
    crops = f" ({about.crops} crops each)" if about.crops > 1 else ""
    head = f"{about.images} images of {about.source}{crops}, against eager PyTorch\npixels {found[0].preprocessing}"
    return f"{head}\n\n{table(rows)}"


def _of(report: ParityReport, name: str) -> str:
    """A figure of a report; of the difference in accuracy, its interval too."""
    from resnet_deploy.parity.confidence import describe_difference

    low, high = report.accuracy_difference_low, report.accuracy_difference_high
    if name == "accuracy_difference" and report.accuracy_difference is not None and low is not None and high is not None:
        return describe_difference(report.accuracy_difference, low, high)
    return _figure(getattr(report, name))


def layers(found: Divergence) -> str:
    rows = [
        {"block": block, **{file: f"{d.relative_error:.1e}  {d.cosine:.5f}" for file, d in differences.items()}}
        for block, differences in found.blocks.items()
    ]
    said = [f"{file} parts from eager at {block}" for file, block in found.first.items() if block is not None]
    return "\n".join(
        [
            f"relative error and mean cosine of what leaves each block, on {found.images} images",
            "",
            table(rows),
            "",
            "; ".join(said) or "no file parts from eager",
        ]
    )


def _figure(value: Any) -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, bool) else f"{value:.6g}"


def tuning(found: Tuning) -> str:
    kept, total = found.chosen.macs, found.macs
    rows = [
        {
            "block": item.block,
            "MMACs": f"{item.macs / 1e6:.1f}",
            "1 - cosine": f"{item.error:.1e}",
            "agree": None if item.report.top1_agreement is None else f"{item.report.top1_agreement:.2%}",
            "precision": "higher" if item.block in found.chosen.keep else "int8",
        }
        for item in found.sensitivities
    ]
    report, latency = found.chosen.report, found.chosen.latency_s
    accuracy = (
        "" if report.top1_accuracy is None else f"top-1 {report.top1_accuracy:.2%} ({report.reference_top1_accuracy:.2%}), "
    )
    timed = "" if latency is None else f", {latency * 1e3:.3f} ms"
    return "\n".join(
        [
            f"each block quantized alone, on {report.images} images",
            "",
            table(rows),
            "",
            f"{len(found.chosen.keep)} of {len(rows)} blocks keep a higher precision, {kept / max(total, 1):.1%} of the "
            f"operations: {accuracy}cosine {report.cosine_mean:.5f}{timed}; {len(found.mixes)} mixes tried",
        ]
    )
