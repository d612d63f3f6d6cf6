"""From a candidate to a running backend: the one place that knows every kind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from resnet_deploy.backends.base import PLANS, Backend, Candidate

if TYPE_CHECKING:
    from resnet_deploy.engine.plan import Origin
    from resnet_deploy.models.deploy import DeployModel  # torch, which eager alone needs


def load_backend(
    candidate: Candidate,
    *,
    model: Callable[[], DeployModel],
    artifact: Callable[[], tuple[Path, Origin | None]],
    threads: int | None = None,
) -> Backend:
    """Load a candidate. model: gives the eager model; artifact: gives the verified file that it runs and, of a plan, where it
    was built."""
    if candidate.backend == "eager":
        from resnet_deploy.backends.eager.backend import EagerBackend

        return EagerBackend(model(), candidate, threads=threads)
    path, origin = artifact()
    if candidate.backend in PLANS:
        from resnet_deploy.backends.tensorrt.backend import TensorRtBackend

        return TensorRtBackend(path, candidate, origin=origin)
    if candidate.backend == "openvino":
        from resnet_deploy.backends.openvino import OpenVinoBackend

        return OpenVinoBackend(path, candidate, threads=threads)
    from resnet_deploy.backends.onnxruntime.backend import OrtBackend

    return OrtBackend(path, candidate, threads=threads)
