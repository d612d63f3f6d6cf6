"""Kernels that TensorRT-RTX compiled for a plan on this machine, kept beside it in the bundle."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

from resnet_deploy.bundle.manifest import PlanFile, RuntimeCache
from resnet_deploy.bundle.names import runtime_cache_file
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.engine.plan import Origin
from resnet_deploy.errors import BundleError, StorageError


@dataclass(frozen=True, kw_only=True)
class RuntimeCacheStore:
    """The cache of a plan for a machine. A cache is code: it is read where the manifest vouches for it, as plans are.

    Attributes:
        bundle: that holds the plan.
        plan: its file.
        machine: this one, as `here` gives it.
    """

    bundle: Bundle
    plan: str
    machine: Origin

    @property
    def name(self) -> str:
        """The file's name."""
        return runtime_cache_file(self.plan, self.machine.version, self.machine.built_for)

    def read(self) -> bytes | None:
        """What was kept for this plan and machine; None where there is none, or where it is gone or spoiled."""
        entry = self.bundle.manifest.artifacts.get(self.name)
        if not isinstance(entry, RuntimeCache) or (entry.origin, entry.made_from) != (self.machine, self._plan_digest()):
            return None
        with contextlib.suppress(BundleError):
            return self.bundle.artifact(self.name).read_bytes()
        return None

    def write(self, data: bytes) -> None:
        """Keep it for the next process. A bundle that cannot be written is no reason to fail."""
        with contextlib.suppress(BundleError, StorageError), self.bundle.transaction() as change:
            change.write(self.name, data)
            change.add(self.name, RuntimeCache, origin=self.machine, made_from=self._plan_digest())

    def _plan_digest(self) -> str:
        entry = self.bundle.entry(self.plan)
        assert isinstance(entry, PlanFile)
        return entry.sha256
