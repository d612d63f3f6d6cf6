"""Backends that die while they are loaded, judged or measured: each says why, and the others go on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.benchmarking.crashes import SWEEP, Crashes, Step
from resnet_deploy.errors import BackendError, BundleError, DataError, DeployError, UsageError

# What is wrong with these is not the backend: there is no use in going on.
_OURS = (BundleError, DataError, UsageError)


class BackendFailures(dict["tuple[Candidate, int | None]", Exception]):
    """What each candidate died of, at a batch size, or of all of them (None).

    candidates: those of the run. crashes: those among them that took an earlier process with them, which count as failed.
    """

    def __init__(self, candidates: list[Candidate] | None = None, crashes: Crashes | None = None) -> None:
        super().__init__()
        self.crashes = crashes or Crashes()
        names = {str(candidate): candidate for candidate in candidates or ()}
        for step, words in self.crashes.known.items():
            if step.kind == SWEEP and step.candidate in names:
                self[names[step.candidate], step.batch] = BackendError(words)

    @contextlib.contextmanager
    def catching(self, candidate: Candidate, batch: int | None = None) -> Iterator[None]:
        """Take what a backend raises in the block. Raises what is not the backend's fault."""
        try:
            with self.at(candidate, batch):
                yield
        except _OURS:
            raise
        except Exception as exc:  # a runtime's own error can be of any kind
            self.setdefault((candidate, batch), exc)

    def at(self, candidate: Candidate, batch: int | None = None) -> contextlib.AbstractContextManager[None]:
        """The block is about a candidate: if the process dies within it, it died of that."""
        return self.crashes.at(Step(candidate=str(candidate), batch=batch))

    def of(self, candidate: Candidate, batch: int | None = None) -> str | None:
        """What a candidate died of, in words."""
        exc = self.get((candidate, None)) or self.get((candidate, batch))
        return None if exc is None else error_line(exc)

    def alive(self, candidates: list[Candidate], batch: int | None = None) -> list[Candidate]:
        """Those that did not die of all batch sizes, or of this one."""
        return [candidate for candidate in candidates if (candidate, None) not in self and (candidate, batch) not in self]

    def raise_first(self) -> None:
        """Where nothing is left: the first error, as one of ours."""
        (candidate, _), exc = next(iter(self.items()))
        raise exc if isinstance(exc, DeployError) else BackendError(f"{candidate} failed: {error_line(exc)}") from exc


def error_line(exc: Exception) -> str:
    """An error in one line."""
    if isinstance(exc, DeployError):
        return str(exc)
    lines = str(exc).strip().splitlines()
    return f"{type(exc).__name__}: {lines[0]}" if lines else type(exc).__name__
