"""The ceiling over each candidate: published for its GPU, named, or measured on this machine and kept in the bundle."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

from resnet_deploy import _deps, _json
from resnet_deploy._machine import gpus
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.benchmarking.roofline.devices import Ceiling, find_ceiling, measure_ceiling
from resnet_deploy.benchmarking.roofline.floor import floor
from resnet_deploy.benchmarking.settings import MeasureOptions
from resnet_deploy.bundle.codec import key_of
from resnet_deploy.bundle.records import CeilingRecord
from resnet_deploy.bundle.results import ResultStore, environment
from resnet_deploy.errors import UsageError
from resnet_deploy.models import registry
from resnet_deploy.specs import Progress


class Ceilings:
    """The ceilings of the devices that candidates run on. Without `measure_roof`, a CPU has none, and a GPU published ones.

    Args:
        options: which ceilings are asked for.
        store: where measured ones are kept.
        threads: of the CPU.
        fresh: measure again what was measured before.
        progress: told what is being done.
    """

    def __init__(self, options: MeasureOptions, store: ResultStore, *, threads: int, fresh: bool, progress: Progress) -> None:
        self._options, self._store, self._threads, self._fresh = options, store, threads, fresh
        self._progress = progress
        self._known: dict[str, Ceiling | None] = {}

    def find(self, devices: Iterable[str]) -> None:
        """The ceilings of `cpu` and `cuda`; measured where that was asked for and was not done before."""
        for device in devices:
            self._known[device] = self._find(device)

    def over(
        self, described: dict[str, Any], candidate: Candidate, batch: int, *, images_per_s: float, device_images_per_s: float
    ) -> dict[str, Any] | None:
        """Compare a candidate's figures with its device's ceilings.

        Args:
            described: the bundle's model, as JSON has it.
            candidate: what ran.
            batch: images.
            images_per_s: host to host.
            device_images_per_s: of the device alone.

        Returns:
            The least time, and how much of it was reached; None where there are no ceilings, or none in that precision.
        """
        ceiling = self._known.get(candidate.device)
        if ceiling is None:
            return None
        try:
            bound = floor(
                registry.architecture(described["architecture"]), ceiling, precision=candidate.precision.value, batch=batch,
                input=described["input_format"], image_size=described["preprocessing"]["crop"],
                num_classes=described["num_classes"],
            )  # fmt: skip
        except UsageError:  # no units for this precision
            return None
        return {
            **bound.to_dict(), "reached_percent": bound.reached_percent(images_per_s),
            "device_reached_percent": bound.device_reached_percent(device_images_per_s),
        }  # fmt: skip

    def _find(self, device: str) -> Ceiling | None:
        if self._options.measure_roof:
            return self._measured(device)
        if device == "cpu":
            return None
        if self._options.roof is not None:
            return find_ceiling(self._options.roof)
        devices = gpus(needed=True)
        return find_ceiling(devices[0]["name"]) if devices else None

    def _measured(self, device: str) -> Ceiling:
        key = key_of(device=device, threads=self._threads, **environment(device, torch=_deps.version("torch")))
        known = self._store.bundle.manifest.roofs.get(key)
        if known is not None and not self._fresh:
            return Ceiling(**_json.plain(known) | {"names": known.names})
        self._progress(f"measure the ceilings of {device}", 0, None)
        import torch

        torch.set_num_threads(self._threads)
        ceiling = measure_ceiling(device)
        self._store.keep("roofs", {key: CeilingRecord(**asdict(ceiling))})
        return ceiling
