"""Latency and throughput of every candidate at every batch size: measured where it is missing, kept as soon as it is done."""

from __future__ import annotations

import contextlib
import itertools
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_deploy.backends.base import Backend
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.benchmarking.failures import BackendFailures
from resnet_deploy.benchmarking.report import measurement_record
from resnet_deploy.benchmarking.settings import MeasureOptions
from resnet_deploy.bundle.codec import key_of, now
from resnet_deploy.bundle.manifest import SamplesFile
from resnet_deploy.bundle.names import SAMPLES
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.bundle.records import MeasurementRecord
from resnet_deploy.bundle.results import ResultStore, environment
from resnet_deploy.data.dataset import Dataset
from resnet_deploy.specs import Progress
from resnet_deploy.timing.conditions import Conditions, watch_with
from resnet_deploy.timing.measure import Interrupted, MeasureConfig, Measurement, measure
from resnet_deploy.timing.nvml import Gpu

STAGES = ("enqueue_s", "h2d_s", "compute_s", "d2h_s")


class Timings:
    """The sweep. records: of measurements, by candidate and batch, filled as they are made; what dies is in `failed`."""

    def __init__(
        self,
        opened: OpenedBundle,
        dataset: Dataset,
        config: MeasureConfig,
        options: MeasureOptions,
        *,
        store: ResultStore,
        failed: BackendFailures,
        threads: int,
        fresh: bool,
        progress: Progress,
    ) -> None:
        self._opened, self._dataset, self._config, self._options = opened, dataset, config, options
        self._store, self._failed, self._threads, self._fresh = store, failed, threads, fresh
        self._progress = progress
        self.records: dict[tuple[Candidate, int], MeasurementRecord] = {}

    def run(self, candidates: list[Candidate], batches: tuple[int, ...]) -> None:
        """Measure what is missing, batch by batch. Raises KeyboardInterrupt once what there is has been kept."""
        known = self._store.bundle.manifest.measurements
        keys = {(candidate, size): self._key(candidate, size) for size in batches for candidate in candidates}
        kept = {pair: known[key] for pair, key in keys.items() if not self._fresh and key in known}
        self.records |= {pair: entry for pair, entry in kept.items() if not entry.partial}
        gpu = Gpu.open() if any(candidate.device == "cuda" for candidate in candidates) else None
        loaded: dict[Candidate, Backend] = {}
        try:
            for size in batches:
                missing = [
                    candidate for candidate in self._failed.alive(candidates, size) if (candidate, size) not in self.records
                ]
                self._load(missing, loaded)
                if running := {candidate: loaded[candidate] for candidate in missing if candidate in loaded}:
                    self._measure(running, size, keys, gpu)
                died = [candidate for candidate in running if (candidate, size) in self._failed]
                for candidate in died:  # made anew for the next size
                    with contextlib.suppress(Exception):  # what died may not even close
                        loaded.pop(candidate).close()
        finally:
            for backend in loaded.values():
                backend.close()
            if gpu is not None:
                gpu.close()

    def _load(self, candidates: list[Candidate], loaded: dict[Candidate, Backend]) -> None:
        for candidate in self._failed.alive(candidates):
            if candidate not in loaded:
                with self._failed.catching(candidate):
                    loaded[candidate] = self._opened.backend(candidate, self._threads)
                    loaded[candidate].spin_wait = self._options.spin_wait

    def _measure(
        self, backends: dict[Candidate, Backend], size: int, keys: dict[tuple[Candidate, int], str], gpu: Gpu | None
    ) -> None:
        images, names = images_of(self._dataset, size), {str(candidate): candidate for candidate in backends}
        failed: dict[str, Exception] = {}

        def clock() -> float | None:
            return None if gpu is None else gpu.read().sm_clock_hz

        def watch(name: str) -> AbstractContextManager[Conditions]:
            return watch_with(gpu if names[name].device == "cuda" else None)

        try:
            measured = measure(
                {name: backends[candidate] for name, candidate in names.items()},
                {name: images.astype(backends[candidate].input_spec.dtype, copy=False) for name, candidate in names.items()},
                self._config,
                lambda done, total: self._progress(f"measure batch {size}", done, total), watch=watch, failed=failed,
                at=lambda name: self._failed.at(names[name], size), clock=clock,
            )  # fmt: skip
        except Interrupted as exc:
            self._keep(
                {names[name]: measurement for name, measurement in exc.partial.items()}, backends, size, keys, partial=True
            )
            raise
        self._keep({names[name]: measurement for name, measurement in measured.items()}, backends, size, keys)
        for name, error in failed.items():
            with self._failed.catching(names[name], size):
                raise error

    def _keep(
        self,
        measured: dict[Candidate, Measurement],
        backends: dict[Candidate, Backend],
        size: int,
        keys: dict[tuple[Candidate, int], str],
        **about: Any,
    ) -> None:
        """Record measurements, and their raw samples in samples.json. partial: those that were interrupted."""
        if not measured:
            return
        entries = {
            keys[candidate, size]: measurement_record(
                measurement, batch=size, threads=self._threads, runtime=backends[candidate].describe(), measured=now(),
                settings=self._options.used(backends[candidate]), candidate=str(candidate),
                made_from=self._opened.made_from(candidate), **about,
            )
            for candidate, measurement in measured.items()
        }  # fmt: skip
        samples = {keys[candidate, size]: _raw(measurement) for candidate, measurement in measured.items()}
        self._store.keep(
            "measurements", entries, lambda change: change.merge(SAMPLES, SamplesFile, lambda kept: kept | samples)
        )
        self.records |= {(candidate, size): entries[keys[candidate, size]] for candidate in measured}

    def _key(self, candidate: Candidate, batch: int) -> str:
        return key_of(
            candidate=str(candidate), made_from=self._opened.made_from(candidate), batch=batch,
            duration_s=self._config.duration_s, threads=self._threads, **environment(candidate.device),
            **self._options.key(candidate),
        )  # fmt: skip


def images_of(dataset: Dataset, batch: int) -> NDArray[Any]:
    """The first `batch` images, repeated where there are fewer: what they show does not change the time."""
    first = next(dataset.batches(batch)).images
    return np.ascontiguousarray(np.stack(list(itertools.islice(itertools.cycle(first), batch))))


def _raw(measurement: Measurement) -> dict[str, Any]:
    samples: dict[str, Any] = {"host_s": measurement.host.values_s, "device_s": measurement.device.values_s}
    if measurement.stages:
        samples |= {name: [getattr(stage, name) for stage in measurement.stages] for name in STAGES}
        samples["queued_images_per_s"] = measurement.queued
    return samples
