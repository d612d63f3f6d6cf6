"""A run over many images, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from resnet_deploy.serving.embedding.job import Embedding


def embedded(embedding: Embedding) -> str:
    good, new = embedding.images - embedding.bad, embedding.images - embedding.before
    if not new:
        done = "complete before this run"
    else:
        done = f"{new:,} images in {embedding.wall_s:.1f} s, {embedding.images_per_s:,.0f} a second"
        done += f"; {embedding.before:,} by earlier runs" if embedding.before else ""
    return "\n".join(
        [
            f"{embedding.output}: {good:,} of {embedding.images:,} images, {embedding.backend}",
            f"columns {', '.join(f'{name} {kind}' for name, kind in embedding.columns.items())}",
            f"done    {done}",
        ]
    )
