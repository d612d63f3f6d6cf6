"""A bundle's records of what was judged and measured; what cannot be written is kept in memory, and said."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from resnet_deploy import _deps
from resnet_deploy._machine import cores, cpu_name, gpus
from resnet_deploy.bundle import codec
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.bundle.transaction import Transaction
from resnet_deploy.errors import BundleError, ConflictError, IntegrityError, StorageError


def environment(device: str, **packages: str | None) -> dict[str, Any]:
    """What a figure depends on beside the files, for its key.

    Args:
        device: cpu, or cuda, whose figures depend on the GPUs too.
        **packages: the versions that matter; all that are known where none are named.
    """
    return {
        "cpu": cpu_name(), "cores": cores(), "gpus": gpus(needed=True) if device == "cuda" else [],
        **(packages or {"packages": _deps.versions()}),
    }  # fmt: skip


class ResultStore:
    """Where records go. refused: why the last that the bundle did not take was refused; None where it took all.

    A bundle on a read-only file system, on a full disk, or whose files another process replaced meanwhile can be measured all
    the same: what was found is told, and why it is not kept.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.refused: str | None = None

    def keep(self, section: str, entries: Mapping[str, Any], write: Callable[[Transaction], None] | None = None) -> bool:
        """Record results in the bundle, or in memory where it cannot be written.

        Args:
            section: of the manifest: `parity`, `measurements`, `scenarios` or `roofs`.
            entries: records by key.
            write: adds files to the same transaction.

        Returns:
            Whether the bundle took them; `refused` says why not.

        Raises:
            IntegrityError: a file of the bundle was changed.
        """
        try:
            with self.bundle.transaction() as change:
                if write is not None:
                    write(change)
                change.record(section, entries)
        except IntegrityError:
            raise
        except (BundleError, StorageError) as exc:
            self.refused = str(exc)
            if not isinstance(exc, ConflictError):
                self.bundle.manifest = codec.replaced(self.bundle.manifest, section, entries)
            return False
        return True

    @property
    def warnings(self) -> list[str]:
        return [] if self.refused is None else [f"the results are not kept in the bundle: {self.refused}"]
