"""From a candidate to a running backend."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from resnet_deploy.backends.base import Backend
from resnet_deploy.backends.candidate import Candidate

if TYPE_CHECKING:
    from resnet_deploy.engine.plan import Origin
    from resnet_deploy.engine.rtx import CacheStore
    from resnet_deploy.models.deploy import DeployModel  # torch, which eager alone needs


def load_backend(
    candidate: Candidate,
    *,
    model: Callable[[], DeployModel],
    artifact: Callable[[], tuple[Path, Origin | None]],
    threads: int | None = None,
    cache: Callable[[str], CacheStore] | None = None,
) -> Backend:
    """Load a candidate.

    Args:
        candidate: what is to run.
        model: gives the eager model.
        artifact: gives the verified file that the candidate runs and, of a plan, where it was built.
        threads: of the CPU; the runtime's default where None.
        cache: gives, for a plan's file, where the kernels are kept that TensorRT-RTX compiles; none are without.

    Returns:
        The backend, ready for `bind`; close it, or use it in a `with` block.

    Raises:
        GraphError, EngineError, UnavailableError, MissingPackageError: as the backend says.
    """
    row = candidate.row
    if row.runs == "network":
        return row.load(candidate.device)(model(), candidate, threads=threads)  # type: ignore[no-any-return]
    path, origin = artifact()
    if row.runs != "plan":
        return row.load(candidate.device)(path, candidate, threads=threads)  # type: ignore[no-any-return]
    options = {"origin": origin} if cache is None else {"origin": origin, "cache": cache(path.name)}
    return row.load(candidate.device)(path, candidate, **options)  # type: ignore[no-any-return]
