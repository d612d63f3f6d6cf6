"""Records of the manifest → the rows of a report."""

from __future__ import annotations

from collections.abc import Iterable

from resnet_deploy import _json
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.benchmarking.failures import BackendFailures
from resnet_deploy.benchmarking.report import STAGES, Result, Unmeasured
from resnet_deploy.benchmarking.roofline.ceilings import Ceilings
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.bundle.records import MeasurementRecord
from resnet_deploy.pipeline.compare_answers import REFERENCE
from resnet_deploy.pipeline.verify import Verdict

Records = dict[tuple[Candidate, int], MeasurementRecord]


def result_rows(
    order: Iterable[tuple[int, Candidate]],
    records: Records,
    judged: dict[Candidate, Verdict],
    ceilings: Ceilings,
    opened: OpenedBundle,
) -> list[Result]:
    """A row for each measurement, in the order given. judged: the verdict on each candidate's answers."""
    return [
        _row(candidate, size, records, judged[candidate], ceilings, opened)
        for size, candidate in order
        if (candidate, size) in records
    ]


def _row(
    candidate: Candidate, batch: int, records: Records, judged: Verdict, ceilings: Ceilings, opened: OpenedBundle
) -> Result:
    artifact = opened.file(candidate)
    timing, base = records[candidate, batch], records.get((REFERENCE, batch))
    stages = {f"{name}_latency_s": getattr(timing, f"{name}_latency_s") for name in STAGES}
    return Result(
        backend=candidate.name, device=candidate.device, precision=candidate.precision.value, batch=batch,
        latency_s=timing.latency_s, device_latency_s=timing.device_latency_s, images_per_s=timing.images_per_s,
        speedup=None if base is None else base.latency_s.p50 / timing.latency_s.p50,
        samples=timing.samples, noisy=timing.noisy, warm=timing.warm, parity=judged.report.to_dict(),
        parity_data=judged.data.source, gate=judged.gate, failures=judged.failures, threads=timing.threads,
        runtime=timing.runtime, measured=timing.measured, **stages,
        throughput_images_per_s=timing.throughput_images_per_s, settings=timing.settings, conditions=timing.conditions,
        sustained=timing.sustained,
        partial=timing.partial, judged_on=judged.data.judged_on, artifact=artifact,
        size_bytes=opened.bundle.entry(artifact).size_bytes, gates=list(judged.checks),
        roofline=ceilings.over(
            _json.plain(opened.description), candidate, batch, images_per_s=timing.images_per_s,
            device_images_per_s=_device_images_per_s(timing, batch),
        ),
    )  # fmt: skip


def _device_images_per_s(timing: MeasurementRecord, batch: int) -> float:
    """Of the device alone: with queries queued and nothing copied where that was measured, else of one at a time."""
    copied, queued = timing.settings.get("data_transfers", False), timing.throughput_images_per_s
    alone = timing.compute_latency_s or timing.device_latency_s
    return batch / alone.p50 if queued is None or copied else queued


def unmeasured(
    candidates: list[Candidate], batches: tuple[int, ...], records: Records, failed: BackendFailures
) -> list[Unmeasured]:
    """What backends that died left behind, batch by batch; one row each where nothing was to be swept."""
    return [
        Unmeasured(
            backend=candidate.name, device=candidate.device, precision=candidate.precision.value, batch=batch, error=error
        )
        for batch in batches or (None,)
        for candidate in candidates
        if (candidate, batch) not in records and (error := failed.of(candidate, batch)) is not None
    ]
