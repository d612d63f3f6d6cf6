"""Backends that die while they are loaded, judged or measured: each says why, and the others go on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from resnet_deploy.backends.base import Candidate
from resnet_deploy.errors import BackendError, BundleError, DataError, DeployError, PrecisionError, UsageError

# What is wrong with these is not the backend: there is no use in going on.
_OURS = (BundleError, DataError, PrecisionError, UsageError)


class Lost(dict["tuple[Candidate, int | None]", Exception]):
    """What each candidate died of, at a batch size, or of all of them (None)."""

    @contextlib.contextmanager
    def catching(self, candidate: Candidate, batch: int | None = None) -> Iterator[None]:
        """Take what a backend raises in the block. Raises what is not the backend's fault."""
        try:
            yield
        except _OURS:
            raise
        except Exception as exc:  # a runtime's own error can be of any kind
            self.setdefault((candidate, batch), exc)

    def of(self, candidate: Candidate, batch: int | None = None) -> str | None:
        """What a candidate died of, in words."""
        exc = self.get((candidate, None)) or self.get((candidate, batch))
        return None if exc is None else said(exc)

    def alive(self, candidates: list[Candidate]) -> list[Candidate]:
        """Those that did not die of all batch sizes."""
        return [candidate for candidate in candidates if (candidate, None) not in self]

    def raise_first(self) -> None:
        """Where nothing is left: the first error, as one of ours."""
        (candidate, _), exc = next(iter(self.items()))
        raise exc if isinstance(exc, DeployError) else BackendError(f"{candidate} failed: {said(exc)}") from exc


def said(exc: Exception) -> str:
    """An error in one line."""
    if isinstance(exc, DeployError):
        return str(exc)
    lines = str(exc).strip().splitlines()
    return f"{type(exc).__name__}: {lines[0]}" if lines else type(exc).__name__
