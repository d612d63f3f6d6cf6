"""From a candidate to a running backend: the one place that knows every kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from resnet_deploy.backends.base import Backend, Candidate
from resnet_deploy.models.deploy import DeployModel


def load_backend(
    candidate: Candidate,
    *,
    model: Callable[[], DeployModel],
    artifact: Callable[[str], Path],
    threads: int | None = None,
) -> Backend:
    """Load a candidate. model: gives the eager model; artifact: gives a verified file by its name."""
    if candidate.backend == "eager":
        from resnet_deploy.backends.eager import EagerBackend

        return EagerBackend(model(), candidate, threads=threads)
    path = artifact(candidate.artifact)
    if candidate.backend == "openvino":
        from resnet_deploy.backends.openvino import OpenVinoBackend

        return OpenVinoBackend(path, candidate, threads=threads)
    from resnet_deploy.backends.ort import OrtBackend

    return OrtBackend(path, candidate, threads=threads)
