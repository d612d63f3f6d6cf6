"""What the commands do to a bundle: export into it, verify what it holds. Each is one call, and does only what is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resnet_deploy import _deps
from resnet_deploy.backends.base import Backend, Candidate
from resnet_deploy.bundle.opened import WEIGHTS, Subject
from resnet_deploy.bundle.store import Bundle, key_of, now
from resnet_deploy.data import Batch, Dataset
from resnet_deploy.errors import DataError, UsageError, carrying
from resnet_deploy.lowering import LoweringOptions, lower
from resnet_deploy.models import registry
from resnet_deploy.parity import Comparison, ParityReport, average_views, judge, parse_gates
from resnet_deploy.preprocessing import CENTRE
from resnet_deploy.specs import MAX_BATCH, OPSET, Head, InputFormat, Precision, Preprocessing, Progress, silent, to_dict

REFERENCE = Candidate(backend="eager")
Guard = Callable[[Candidate], AbstractContextManager[None]]


def _raising(candidate: Candidate) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What is exported. The names and defaults are those of `resnet-deploy export`.

    weights, num_classes, new_head: as in `create_model`. head: logits, probabilities, embedding, features or topk:K.
    l2_normalize: unit-length embeddings. input: float (normalized NCHW float32) or uint8 (NHWC pixels).
    image_size: pixels, square, of the input; resize: of the shorter edge before the crop; mean, std: of each channel in
    [0, 1]; by default the checkpoint's own, else the architecture's. max_batch: the largest batch that is proven.
    """

    weights: str | Path | None = None
    num_classes: int | None = None
    new_head: bool = False
    head: str = "logits"
    l2_normalize: bool = False
    input: str = "float"
    image_size: int | None = None
    resize: int | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    max_batch: int = MAX_BATCH
    opset: int = OPSET

    def __post_init__(self) -> None:
        Head.parse(self.head, l2_normalize=self.l2_normalize)
        if self.input not in {f.value for f in InputFormat}:
            raise UsageError(f"unknown input {self.input!r}; choose float or uint8")
        if self.max_batch < 1:
            raise UsageError(f"the largest batch must be at least 1; found {self.max_batch}")
        if self.image_size is not None and self.image_size < 32:
            raise UsageError(f"an image of {self.image_size} pixels is too small for a residual network; use 32 or more")

    def preprocessing(self, found: Preprocessing) -> Preprocessing:
        """A checkpoint's preprocessing with what was asked for in its place."""
        crop = self.image_size or found.crop
        # A size of its own keeps the ratio of resize to crop: 256 to 224.
        resize = self.resize or round(found.resize * crop / found.crop)
        return replace(found, crop=crop, resize=resize, mean=self.mean or found.mean, std=self.std or found.std)

    def request(self, row: registry.Architecture) -> dict[str, Any]:
        """What the exported files depend on, without loading anything heavy: equal requests, equal files."""
        from resnet_deploy.models.checkpoint import weights_digest

        digest = None if self.weights is None else weights_digest(row, str(self.weights))
        return {**to_dict(self), "weights": digest}


def export(
    architecture: str, output: str | Path, *, overwrite: bool = False, progress: Progress = silent, **options: Any
) -> Bundle:
    """Make a bundle with a checked FP32 ONNX model and, from it, the other precisions that are asked for; nothing is done
    where it is there already.

    options: the fields of `ExportOptions` and of `LoweringOptions`. Raises UsageError, CheckpointError, BundleError,
    ExportError or CalibrationError; what the folder held before stays as it was.
    """
    precisions, others = LoweringOptions.split(options)
    bundle = _export(architecture, output, ExportOptions(**others), overwrite, progress)
    lower(bundle, precisions, progress)
    return bundle


def _export(architecture: str, output: str | Path, asked: ExportOptions, overwrite: bool, progress: Progress) -> Bundle:
    row = registry.architecture(architecture)
    request = asked.request(row)
    bundle = Bundle.create(output, {"architecture": row.name, "request": request}, overwrite=overwrite)
    if not overwrite and (found := _up_to_date(bundle, request)) is not None:
        return found

    progress("load", 0, None)
    from resnet_deploy.exporter import export_onnx
    from resnet_deploy.models.checkpoint import save
    from resnet_deploy.models.create import load_model
    from resnet_deploy.models.deploy import DeployModel

    loaded = load_model(row.name, weights=asked.weights, num_classes=asked.num_classes, new_head=asked.new_head)
    preprocessing = asked.preprocessing(loaded.preprocessing)
    model = DeployModel(
        loaded.network, head=Head.parse(asked.head, l2_normalize=asked.l2_normalize), input_format=InputFormat(asked.input),
        preprocessing=preprocessing,
    )  # fmt: skip
    bundle.manifest["model"] |= _describe(model, loaded.weights, loaded.class_names, row)
    metadata = {"architecture": row.name, "preprocessing": to_dict(preprocessing), "class_names": loaded.class_names}
    with bundle.transaction() as change:
        save(model.network.state_dict(), change.stage(WEIGHTS), metadata)
        change.add(WEIGHTS, kind="weights", made_from=loaded.weights["sha256"])
        checks = export_onnx(
            model, change.stage("model.fp32.onnx"), max_batch=asked.max_batch, opset=asked.opset,
            step=lambda what: progress(what, 0, None),
        )  # fmt: skip
        change.add(
            "model.fp32.onnx", kind="onnx", precision=Precision.FP32.value, opset=asked.opset, checks=checks,
            made_from=change.manifest["artifacts"][WEIGHTS]["sha256"],
        )  # fmt: skip
    return bundle


def _up_to_date(bundle: Bundle, request: dict[str, Any]) -> Bundle | None:
    """The bundle on disk, where it was made by the same request and every file is as it was made."""
    if not (bundle.path / "manifest.json").is_file():
        return None
    found = Bundle.open(bundle.path)
    if found.manifest["model"].get("request") != request:
        return None
    for name in found.manifest["artifacts"]:
        found.artifact(name)
    return found


def _describe(model: Any, weights: dict[str, Any], class_names: Any, row: registry.Architecture) -> dict[str, Any]:
    from resnet_deploy.models.complexity import complexity

    classes = model.network.num_classes
    cost = complexity(row, num_classes=classes, image_size=model.preprocessing.crop)
    return {
        "family": row.family,
        "paper": row.paper,
        "num_classes": classes,
        "class_names": class_names,
        "weights": weights,
        "head": to_dict(model.head),
        "input_format": model.input_format.value,
        "preprocessing": to_dict(model.preprocessing),
        "input": to_dict(model.input_spec),
        "outputs": [to_dict(spec) for spec in model.output_specs()],
        "parameters": cost.parameters,
        "macs": cost.macs,
    }


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """One candidate against eager on one data set. failures: the gates that do not hold, in words."""

    candidate: Candidate
    data: dict[str, Any]
    report: ParityReport
    failures: list[str] = field(default_factory=list)

    @property
    def gate(self) -> str:
        return "fail" if self.failures else "pass"

    def to_dict(self) -> dict[str, Any]:
        return {
            "backend": self.candidate.name, "device": self.candidate.device, "precision": self.candidate.precision.value,
            "gate": self.gate, "failures": self.failures, "data": self.data, "parity": self.report.to_dict(),
        }  # fmt: skip


def verify(
    bundle: Bundle | str | Path,
    data: str | Path,
    *,
    backends: Iterable[str] = ("onnxruntime",),
    gates: Iterable[str] = (),
    batch: int = MAX_BATCH,
    limit: int | None = None,
    strict: bool = False,
    crops: int = 1,
    threads: int | None = None,
    progress: Progress = silent,
) -> list[Verdict]:
    """Compare backends with eager PyTorch on data, and judge them by gates (`metric=limit`) over the defaults.

    crops: 1, or 10 of each image, whose probabilities are averaged. Every artifact's hash is checked first. The verdicts
    are recorded in the manifest. Raises UsageError, DataError, IntegrityError or UnavailableError.
    """
    asked = parse_gates(gates)
    bundle = bundle if isinstance(bundle, Bundle) else Bundle.open(bundle)
    candidates = [Candidate.parse(text) for text in backends]
    if batch < 1:
        raise UsageError(f"a batch size must be at least 1; found {batch}")
    for name in bundle.manifest["artifacts"]:
        bundle.artifact(name)
    subject = Subject(bundle)
    dataset = subject.data(data, limit=limit, strict=strict, crops=crops)
    records = compare(subject, candidates, dataset, batch=min(batch, subject.max_batch), threads=threads, progress=progress)
    verdicts = [verdict(candidate, record, asked) for candidate, record in zip(candidates, records.values(), strict=True)]
    with carrying(verdicts):
        bundle.record("parity", records)
    return verdicts


def parity_key(subject: Subject, candidate: Candidate, dataset: Dataset) -> str:
    """What a parity record depends on."""
    return key_of(
        candidate=str(candidate), made_from=subject.made_from(candidate), reference=subject.made_from(REFERENCE),
        data=dataset.sha256, crops=dataset.crops, excluded=subject.seen_key(), packages=_deps.versions(),
    )  # fmt: skip


def compare(
    subject: Subject,
    candidates: list[Candidate],
    dataset: Dataset,
    *,
    batch: int,
    threads: int | None = None,
    progress: Progress = silent,
    guard: Guard = _raising,
) -> dict[str, Any]:
    """Run candidates and eager over the same batches once; returns parity records by key, in the candidates' order.

    guard: what is done with one candidate happens within it; one whose error it takes is left out.
    """
    seen, excluded = subject.seen(), 0
    with ExitStack() as stack:
        loaded = _loaded(subject, candidates, threads, stack, guard)
        comparisons = {candidate: Comparison() for candidate in candidates if candidate in loaded}
        images = max(1, batch // dataset.crops)
        for whole in dataset.batches(images, lambda done: progress("verify", done, len(dataset))):
            part = unseen(whole, seen, dataset.crops)
            excluded += len(whole.images) - len(part.images)
            if not len(part.images):
                continue
            expected = _answers(loaded[REFERENCE], part.images, dataset.crops, batch)
            for candidate, comparison in [*comparisons.items()]:
                del comparisons[candidate]
                with guard(candidate):
                    found = expected
                    if candidate != REFERENCE:
                        found = _answers(loaded[candidate], part.images, dataset.crops, batch)
                    comparison.add(expected, found, part.labels)
                    comparisons[candidate] = comparison
        described = {candidate: loaded[candidate].describe() for candidate in comparisons}
    if excluded == len(dataset) - len(dataset.skipped):
        raise DataError(f"the bundle was calibrated on all images of {dataset.source}: verify it on others")
    about = {
        "source": dataset.source, "sha256": dataset.sha256, "crops": dataset.crops,
        "images": len(dataset) - len(dataset.skipped) - excluded, "calibrated_on": excluded,
        "skipped": [{"name": item.name, "reason": item.reason} for item in dataset.skipped],
    }  # fmt: skip
    return {
        parity_key(subject, candidate, dataset): {
            "candidate": str(candidate), "made_from": subject.made_from(candidate), "data": about, "batch": batch,
            "runtime": described[candidate], "created": now(), "report": comparison.report().to_dict(),
        }
        for candidate, comparison in comparisons.items()
    }  # fmt: skip


def _loaded(
    subject: Subject, candidates: list[Candidate], threads: int | None, stack: ExitStack, guard: Guard
) -> dict[Candidate, Backend]:
    """The reference, and the candidates that load."""
    loaded = {REFERENCE: stack.enter_context(subject.backend(REFERENCE, threads))}
    for candidate in candidates:
        if candidate not in loaded:
            with guard(candidate):
                loaded[candidate] = subject.backend(candidate, threads)
                stack.callback(_close, loaded[candidate], candidate, guard)
    return loaded


def _close(backend: Backend, candidate: Candidate, guard: Guard) -> None:
    with guard(candidate):  # one that died may not even close
        backend.close()


def unseen(part: Batch, seen: frozenset[str], crops: int = 1) -> Batch:
    """Without the images that the bundle was calibrated on (their centre crops)."""
    if not seen:
        return part
    from resnet_deploy.precision.calibrate import image_digest

    centres = part.images if crops == 1 else part.images[:, CENTRE]
    kept = [index for index, image in enumerate(centres) if image_digest(image) not in seen]
    return Batch(images=part.images[kept], labels=None if part.labels is None else part.labels[kept])


def _answers(backend: Backend, images: NDArray[Any], crops: int, batch: int) -> Mapping[str, NDArray[Any]]:
    """A backend's outputs for (N, ...) images, or for (N, crops, ...) the average over the crops."""
    if crops == 1:
        return backend.infer(images)
    views = images.reshape(-1, *images.shape[2:])
    parts = [backend.infer(views[start : start + batch]) for start in range(0, len(views), batch)]
    return {name: average_views(name, np.concatenate([part[name] for part in parts]), crops) for name in parts[0]}


def verdict(candidate: Candidate, record: Mapping[str, Any], asked: Mapping[str, float]) -> Verdict:
    """Judge a parity record, now made or from the manifest."""
    report = ParityReport(**record["report"])
    failures = judge(report, candidate.precision, asked)
    return Verdict(candidate=candidate, data=record["data"], report=report, failures=failures)
