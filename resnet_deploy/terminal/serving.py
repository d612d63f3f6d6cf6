"""What was handed over to others, and run over many images, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resnet_deploy.terminal.tables import table

if TYPE_CHECKING:
    from resnet_deploy.serving.cpp.write import Project
    from resnet_deploy.serving.embedding.job import Embedding
    from resnet_deploy.serving.triton.repository import Added
    from resnet_deploy.serving.triton.write import Repository


def repository(found: Repository) -> str:
    entry = found.entry.config
    return "\n".join(
        [
            str(found.path),
            *(f"input   {_tensor(spec)}" for spec in entry["input"]),
            *(f"output  {_tensor(spec)}" for spec in entry["output"]),
            "",
            table([_row(model) for model in found.models]),
        ]
    )


def _row(model: Added) -> dict[str, Any]:
    config, batching = model.config, model.config.get("dynamic_batching", {})
    instances = config.get("instance_group", [])
    delay_us = batching.get("max_queue_delay_microseconds")
    return {
        "model": model.name,
        "version": f"{model.version} (before)" if model.reused else model.version,
        "platform": config.get("platform") or config["backend"],
        "MB": f"{model.size_bytes / 1e6:.1f}",
        "batch": f"1 to {config['max_batch_size']}",
        "preferred": ", ".join(map(str, batching.get("preferred_batch_size", []))) or None,
        "delay": None if delay_us is None else f"{int(delay_us)} us",
        "instances": ", ".join(f"{group['count']} {group['kind'].removeprefix('KIND_')}" for group in instances) or None,
    }


def _tensor(spec: dict[str, Any]) -> str:
    shape = ", ".join(["batch", *spec["dims"]])
    return f"{spec['name']} {spec['data_type'].removeprefix('TYPE_')} [{shape}]"


def project(project: Project) -> str:
    path = project.path
    return "\n".join(
        [
            f"{path}: runs {', '.join(project.artifacts)} with {project.backend}",
            "",
            "Build and run it (its README.md has what it needs):",
            f"    cd {path} && cmake --preset default && cmake --build --preset default",
            "    build/classify bundle image.ppm",
        ]
    )


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
