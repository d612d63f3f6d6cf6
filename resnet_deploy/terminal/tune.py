"""A tuned mix of precisions, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resnet_deploy.terminal.tables import table

if TYPE_CHECKING:
    from resnet_deploy.precision.tune import Tuning


def tuning(tuned: Tuning) -> str:
    kept, total = tuned.chosen.macs, tuned.macs
    rows = [
        {
            "block": item.block,
            "MMACs": f"{item.macs / 1e6:.1f}",
            "1 - cosine": f"{item.error:.1e}",
            "agree": None if item.report.top1_agreement is None else f"{item.report.top1_agreement:.2%}",
            "precision": "higher" if item.block in tuned.chosen.keep else "int8",
        }
        for item in tuned.sensitivities
    ]
    report, latency = tuned.chosen.report, tuned.chosen.latency_s
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
            f"{len(tuned.chosen.keep)} of {len(rows)} blocks keep a higher precision, {kept / max(total, 1):.1%} of the "
            f"operations: {accuracy}cosine {report.cosine_mean:.5f}{timed}; {len(tuned.mixes)} mixes tried",
        ]
    )
