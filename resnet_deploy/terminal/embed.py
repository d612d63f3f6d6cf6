"""A run over many images, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resnet_deploy.serving.embedding.job import Embedding


def embedded(found: Embedding) -> str:
    good, new = found.images - found.bad, found.images - found.before
    if not new:
        done = "complete before this run"
    else:
        done = f"{new:,} images in {found.wall_s:.1f} s, {found.images_per_s:,.0f} a second"
        done += f"; {found.before:,} by earlier runs" if found.before else ""
    return "\n".join(
        [
            f"{found.output}: {good:,} of {found.images:,} images, {found.backend}",
            f"columns {', '.join(f'{name} {kind}' for name, kind in found.columns.items())}",
            f"done    {done}",
        ]
    )
