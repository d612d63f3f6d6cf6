"""What was added to a Triton model repository, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resnet_deploy.terminal.tables import table

if TYPE_CHECKING:
    from resnet_deploy.serving.triton.repository import Added
    from resnet_deploy.serving.triton.write import Repository


def repository(added: Repository) -> str:
    entry = added.entry.config
    return "\n".join(
        [
            str(added.path),
            *(f"input   {_tensor(spec)}" for spec in entry["input"]),
            *(f"output  {_tensor(spec)}" for spec in entry["output"]),
            "",
            table([_row(model) for model in added.models]),
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
