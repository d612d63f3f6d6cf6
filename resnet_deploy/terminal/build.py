"""Plans that were built, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resnet_deploy.terminal.tables import counts_text, table

if TYPE_CHECKING:
    from resnet_deploy.engine.report import PlanReport
    from resnet_deploy.pipeline.build import Plan


def built(bundle: str, plans: list[Plan]) -> str:
    rows = [
        {
            "plan": plan.name,
            "MB": f"{plan.entry.size_bytes / 1e6:.1f}",
            "profiles": ", ".join(plan.entry.profiles),
            "convolutions": counts_text(plan.report.convolutions),
            "float out": len(plan.report.float_outputs),
            "layers": len(plan.report.engine_layers),
            "reformats": plan.report.reformats,
            "unfused adds": len(plan.report.unfused_adds),
            "built": "before" if plan.reused else f"in {plan.entry.builder_s:.1f} s",
        }
        for plan in plans
    ]
    notes = [f"{plan.name}: {note}" for plan in plans if (note := float_outputs(plan.report))]
    return "\n\n".join([bundle, table(rows), *notes])


def float_outputs(report: PlanReport) -> str:
    """What it costs that quantized convolutions write floats; nothing where none does."""
    count = len(report.float_outputs)
    if not count:
        return ""
    return (
        f"{count} of {len(report.quantized)} quantized convolutions write floats, which other kernels read again to quantize: "
        "up to 9 bytes of memory traffic for an output element, against 2 of an FP16 plan with fused kernels. Where memory is "
        "the limit, FP16 is faster: measure both."
    )
