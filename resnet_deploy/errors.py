"""Everything that resnet-deploy raises, and the exit code that the command line gives each.

0 done, 1 a gate failed, 2 wrong usage or input, 3 this machine can't, 4 it cannot be told from noise, 70 a fault of
resnet-deploy itself, 130 interrupted.
"""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator
from typing import Any

EXIT_GATE = 1
EXIT_USAGE = 2
EXIT_MACHINE = 3
EXIT_INCONCLUSIVE = 4  # neither a pass nor a failure: measure again
EXIT_FAULT = 70  # EX_SOFTWARE of sysexits.h: an error that is none of ours, so not 1, which is Python's own
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


class DeployError(Exception):
    """Base of all our errors. The message says what was found, what was expected, and what to do.

    result: what had been found when only the storing of it failed; None otherwise.
    """

    exit_code = EXIT_USAGE
    result: Any = None


@contextlib.contextmanager
def carrying(result: Any) -> Iterator[None]:
    """Give an error of ours what was found before it, so that a disk that is full takes the file and not the work."""
    try:
        yield
    except DeployError as exc:
        exc.result = result
        raise


_MEMORY = re.compile(r"out of memory|can(?:'t|not) allocate memory|failed to allocate memory|bad[ _]alloc", re.IGNORECASE)


def out_of_memory(exc: BaseException) -> BaseException | None:
    """The error by which Python, NumPy, torch, CUDA or ONNX Runtime says that memory ran out, among an error and its causes."""
    link: BaseException | None = exc
    for _ in range(20):  # chains can be circular
        if link is None:
            return None
        ours, refused = isinstance(link, DeployError), getattr(link, "errno", None) == errno.ENOMEM
        if isinstance(link, MemoryError) or refused or (not ours and _MEMORY.search(str(link)[:2000])):
            return link
        link = link.__cause__ or link.__context__
    return None


class UsageError(DeployError):
    """An argument that cannot be meant: an unknown name, a batch of 0, a malformed gate."""


class CheckpointError(DeployError):
    """Weights that cannot be read, or that are not this architecture's."""


class DataError(DeployError):
    """Images or arrays that cannot be used."""


class BundleError(DeployError):
    """A bundle's folder that cannot be used: another model's, locked, or not writable."""


class OutputError(DeployError):
    """A file that cannot be the output: another run's, locked, or not writable."""


class ConflictError(BundleError):
    """A change that another process made impossible meanwhile: it replaced what this one was made from."""


class IntegrityError(BundleError):
    """A file whose SHA-256 is not the one that the manifest recorded."""


class GraphError(DeployError):
    """An ONNX file that cannot be parsed or run."""


class EngineError(DeployError):
    """A graph that cannot be built into a plan, or a plan that cannot be used."""


class PrecisionError(EngineError):
    """A plan that computes in another precision than was asked for."""

    exit_code = EXIT_GATE


class CalibrationError(DeployError):
    """Calibration images or a calibration file that cannot be this model's."""


class TuningError(DeployError):
    """No mix of precisions passes the gate."""

    exit_code = EXIT_GATE


class RepositoryError(DeployError):
    """A Triton model repository that cannot be used: another model's, or not one."""


class ServingError(DeployError):
    """A model that would not serve as it was asked to: another TensorRT than the server's, or a latency over the bound."""

    exit_code = EXIT_GATE


class ExportError(DeployError):
    """An export that failed its checks: the file is not left behind."""

    exit_code = EXIT_GATE


class UnavailableError(DeployError):
    """This machine cannot do it: a device or a runtime is missing, or the disk is full."""

    exit_code = EXIT_MACHINE


class BackendError(UnavailableError):
    """A backend that failed while it ran."""


class MissingPackageError(UnavailableError):
    """An optional package is not installed; the message has the command that installs it."""


class StorageError(UnavailableError):
    """The disk is full or failed while writing; what was there before is untouched."""
