"""`verify`: every candidate against the eager model on data, judged by gates. None is judged on images that it has seen."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from resnet_deploy import _deps, _json
from resnet_deploy._deprecated import renamed
from resnet_deploy._machine import exact_int8
from resnet_deploy.backends.candidate import Candidate
from resnet_deploy.bundle.codec import key_of
from resnet_deploy.bundle.description import describe_preprocessing
from resnet_deploy.bundle.names import WEIGHTS
from resnet_deploy.bundle.opened import OpenedBundle
from resnet_deploy.bundle.records import JudgedData, ParityRecord
from resnet_deploy.bundle.results import ResultStore
from resnet_deploy.bundle.store import Bundle
from resnet_deploy.data.dataset import Dataset
from resnet_deploy.limits import check_all
from resnet_deploy.parity.gates import GateCheck, check_gates, judge, parse_gates
from resnet_deploy.parity.metrics import ParityReport
from resnet_deploy.pipeline.candidates import candidates_to_verify
from resnet_deploy.pipeline.compare_answers import REFERENCE, compare_answers
from resnet_deploy.pipeline.restore import restore
from resnet_deploy.specs import MAX_BATCH, Precision, Progress, silent

_SATURATES = (
    "this processor has no VNNI: its INT8 kernels add products in 16 bits, which saturate. Judge the file itself with "
    "onnxruntime:int8,simulate; for processors like this one, export with --reduce-range"
)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One candidate against eager on one data set.

    Attributes:
        candidate: what was judged.
        data: the images, and how many were left out.
        report: how the answers differ.
        failures: the gates that do not hold, in words.
        warnings: what makes the verdict unsafe, in words.
        preprocessing: what the model sees of an image, and where each part of that is from.
        checks: every condition that the gates set, with the figure that was found.
    """

    candidate: Candidate
    data: JudgedData
    report: ParityReport
    failures: list[str] = field(default_factory=list)
    warnings: tuple[str, ...] = ()
    preprocessing: str = ""
    checks: tuple[GateCheck, ...] = ()

    @property
    def gate(self) -> str:
        """pass or fail."""
        return "fail" if self.failures else "pass"

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            "backend": self.candidate.name, "device": self.candidate.device, "precision": self.candidate.precision.value,
            "gate": self.gate, "failures": self.failures, "warnings": list(self.warnings),
            "preprocessing": self.preprocessing, "data": _json.plain(self.data),
            "parity": self.report.to_dict(),
        }  # fmt: skip


@renamed(backends="backend", gates="gate")
def verify(
    bundle: Bundle | str | Path,
    data: str | Path,
    *,
    backend: str | Iterable[str] | None = None,
    precision: str | Iterable[str] | None = None,
    gate: str | Iterable[str] = (),
    batch: int = MAX_BATCH,
    limit: int | None = None,
    strict: bool = False,
    crops: int = 1,
    threads: int | None = None,
    progress: Progress = silent,
) -> list[Verdict]:
    """Compare backends with eager PyTorch on data, and judge them by gates over the defaults.

    The verdicts are kept in the bundle; where that cannot be, each has a warning that says why.

    Args:
        bundle: a bundle, or its folder; files of it that are gone are made again.
        data: images, as `open_data` takes them.
        backend: what is compared, one or several, as in `onnxruntime:int8`; by default `onnxruntime` or, with `precision`,
            every backend of this machine that runs a file of the bundle in one of them.
        precision: of fp32, fp16, bf16, int8, fp8; backends that are named without one are compared in each that they have.
        gate: one condition or several, as in `top1-agreement=0.99`; each takes the place of the default of its own metric.
        batch: images at a time.
        limit: so many images, evenly spaced.
        strict: fail at the first image that cannot be read.
        crops: 1, or 10 of each image, whose probabilities are averaged.
        threads: CPU threads of each backend; all cores without.
        progress: told what is being done.

    Returns:
        A verdict for each backend and precision, in their order.

    Raises:
        UsageError, DataError, IntegrityError or UnavailableError.

    `backends` and `gates` are old names of `backend` and `gate`; they warn, and will go.
    """
    check_all(batch=batch, limit=limit, threads=threads)
    limits = parse_gates(gate)
    bundle = Bundle.open(bundle)
    opened, store = OpenedBundle(bundle), ResultStore(bundle)
    candidates = candidates_to_verify(opened, backend, precision)
    restore(bundle, [WEIGHTS, *(candidate.artifact for candidate in candidates)], progress)
    dataset = opened.data(data, limit=limit, strict=strict, crops=crops)
    unnamed = opened.keep_names(dataset)
    records = compare_answers(
        opened, candidates, dataset, batch=min(batch, opened.max_batch), threads=threads, progress=progress
    )
    store.keep("parity", {parity_key(opened, candidate, dataset): record for candidate, record in records.items()})
    warnings = (*store.warnings, *([] if unnamed is None else [unnamed]))
    return [judge_record(opened, candidate, records[candidate], limits, warnings) for candidate in candidates]


def parity_key(opened: OpenedBundle, candidate: Candidate, dataset: Dataset) -> str:
    """What a parity record depends on."""
    use = opened.calibration_of(candidate)
    return key_of(
        candidate=str(candidate), made_from=opened.made_from(candidate), reference=opened.made_from(REFERENCE),
        data=dataset.sha256, crops=dataset.crops, excluded=use and use.key, packages=_deps.versions(),
    )  # fmt: skip


def accuracy_warning(opened: OpenedBundle, records: Iterable[ParityRecord]) -> tuple[str, ...]:
    """Whether the reference stays far below what its weights are said to reach: most often the preprocessing is another's."""
    model, reported = opened.description, opened.description.weights.top1_accuracy
    measured = [(record.report.reference_top1_accuracy, record.data) for record in records]
    known = [(value, data) for value, data in measured if value is not None]
    if reported is None or not known:
        return ()
    reached, data = max(known, key=lambda item: item[1].images)
    # 95 %, normal approximation, and two points for other images of the same kind.
    margin = 1.96 * math.sqrt(max(reported * (1 - reported), 0.01) / data.images) + 0.02
    if reached >= reported - margin:
        return ()
    return (
        f"eager reaches {reached:.1%} top-1 on {data.source}, and {model.weights.reported_by} says {reported:.1%}: is the "
        f"preprocessing that of the training ({describe_preprocessing(model)}), and are these its classes?",
    )


def judge_record(
    opened: OpenedBundle,
    candidate: Candidate,
    record: ParityRecord,
    limits: Mapping[str, float],
    warnings: tuple[str, ...] = (),
) -> Verdict:
    """Judge a parity record, now made or from the manifest. warnings: what else makes it unsafe."""
    report = record.report
    failures = judge(report, candidate.precision, limits)
    warnings += (*record.data.notes, *accuracy_warning(opened, [record]))
    if failures and candidate.precision is Precision.INT8 and candidate.device == "cpu" and "simulate" not in candidate.options:
        warnings += () if exact_int8() else (_SATURATES,)
    return Verdict(
        candidate=candidate, data=record.data, report=report, failures=failures, warnings=tuple(dict.fromkeys(warnings)),
        preprocessing=describe_preprocessing(opened.description),
        checks=tuple(check_gates(report, candidate.precision, limits)),
    )  # fmt: skip
