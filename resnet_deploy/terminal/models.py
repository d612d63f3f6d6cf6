"""The list of architectures, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resnet_deploy.terminal.tables import table

if TYPE_CHECKING:
    pass


def models_text(rows: list[dict[str, Any]]) -> str:
    return table(
        [
            {
                "family": row["family"],
                "model": row["name"],
                "parameters": f"{row['parameters']:,}",
                "GMACs": f"{row['macs'] / 1e9:.3f}",
                "input": row["image_size"],
                "weights MB": f"{row['weight_bytes'] / 1e6:.1f}",
                "activations MB": f"{row['activations'] * 4 / 1e6:.1f}",
                "paper": row["paper"],
                "error %": row["error_percent"],
                "published (top-1 %)": ", ".join(f"{w['name']} {w['top1_percent']:.2f}" for w in row["weights"]) or None,
            }
            for row in rows
        ]
    )
