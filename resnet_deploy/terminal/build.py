"""Plans that were built, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resnet_deploy.terminal.tables import counts_text, table

if TYPE_CHECKING:
    from resnet_deploy.pipeline.build import Plan


def built(bundle: str, plans: list[Plan]) -> str:
    rows = [
        {
            "plan": plan.name,
            "MB": f"{plan.entry.size_bytes / 1e6:.1f}",
            "profiles": ", ".join(plan.entry.profiles),
            "convolutions": counts_text(plan.report.convolutions),
            "layers": len(plan.report.engine_layers),
            "reformats": plan.report.reformats,
            "unfused adds": len(plan.report.unfused_adds),
            "built": "before" if plan.reused else f"in {plan.entry.builder_s:.1f} s",
        }
        for plan in plans
    ]
    return f"{bundle}\n\n{table(rows)}"
