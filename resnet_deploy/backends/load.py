"""From a candidate to a running backend: the one place that knows every kind."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from resnet_deploy.backends.base import PLANS, Backend, Candidate
from resnet_deploy.models.deploy import DeployModel


def load_backend(
    candidate: Candidate,
    *,
    model: Callable[[], DeployModel],
    artifact: Callable[[], tuple[Path, Mapping[str, Any]]],
    threads: int | None = None,
) -> Backend:
    """Load a candidate. model: gives the eager model; artifact: gives the verified file that it runs, and what the manifest
    says of it."""
    if candidate.backend == "eager":
        from resnet_deploy.backends.eager import EagerBackend

        return EagerBackend(model(), candidate, threads=threads)
    path, entry = artifact()
    if candidate.backend in PLANS:
        from resnet_deploy.backends.trt import TensorRtBackend
        from resnet_deploy.engine.plan import Origin

        return TensorRtBackend(path, candidate, origin=Origin.from_dict(entry["origin"]))
    if candidate.backend == "openvino":
        from resnet_deploy.backends.openvino import OpenVinoBackend

        return OpenVinoBackend(path, candidate, threads=threads)
    from resnet_deploy.backends.ort import OrtBackend

    return OrtBackend(path, candidate, threads=threads)
