"""A bundle that was exported, as text."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from resnet_deploy.terminal.tables import table

if TYPE_CHECKING:
    from resnet_deploy.bundle.store import Bundle


def exported(bundle: Bundle) -> str:
    from resnet_deploy.bundle.description import describe_preprocessing
    from resnet_deploy.bundle.manifest import GraphFile
    from resnet_deploy.bundle.names import FP32

    model, artifacts = bundle.manifest.model, bundle.manifest.artifacts
    graph = bundle.manifest.files(GraphFile).get(FP32)
    checks = () if graph is None else graph.checks
    worst = max((check.max_rel_error for check in checks), default=math.nan)
    batches = ", ".join(str(check.batch) for check in checks)
    checked = f"checked against eager at batch {batches}: relative error at most {worst:.1e}"
    files = [{"file": name, "bytes": f"{entry.size_bytes:,}", "sha256": entry.sha256[:16]} for name, entry in artifacts.items()]
    return "\n".join(
        [
            f"{bundle.path}: {model.architecture}, weights {model.weights.source}",
            f"pixels  {describe_preprocessing(model)}",
            f"input   {model.input}",
            f"output  {', '.join(map(str, model.outputs))}",
            *([checked] if checks else []),
            "",
            table(files),
        ]
    )
