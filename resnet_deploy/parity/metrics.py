"""Does a candidate answer as the reference does? Agreement and accuracy with confidence.

Numpy alone: nothing here knows which framework gave the arrays. Everything is accumulated batch by batch, so memory does
not grow with the number of images (two booleans an image are kept where there are labels).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from resnet_deploy._figures import Cosine, Difference, Fraction, Magnitude, restore_figures, spell
from resnet_deploy._json import convert
from resnet_deploy.errors import UsageError
from resnet_deploy.parity.confidence import mcnemar, pack, paired_interval, unpack

Arrays = Mapping[str, NDArray[Any]]
_SCORES = ("logits", "probabilities")
_TOPK = ("topk_values", "topk_indices")
_ALWAYS = ("max_abs_error", "mean_abs_error", "max_rel_error", "cosine_mean", "cosine_min")
if TYPE_CHECKING:
    _Magnitude = float
    _Cosine = float
else:
    _Magnitude, _Cosine = Magnitude | None, Cosine | None


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """How a candidate's answers differ from the reference's on the same images. None where an output has no such figure.

    A figure may be NaN or infinite. In JSON it is then spelled out, `nan`, `inf` or `-inf`; null, which earlier versions
    wrote, is read as NaN where there must be a figure.

    Attributes:
        images: how many were compared.
        finite: whether no output has NaN or Inf.
        max_abs_error, mean_abs_error: over every element of every floating output.
        max_rel_error: the largest absolute error of an output over the largest magnitude of the reference's same output.
        cosine_mean, cosine_min: of each image's output vector with the reference's.
        top1_agreement: fraction of images with the same first class.
        top5_agreement: mean share of the reference's five first classes among the candidate's.
        top1_accuracy, top5_accuracy: the candidate's, fractions of the labelled images.
        reference_top1_accuracy, reference_top5_accuracy: the reference's, likewise.
        relative_accuracy: the candidate's top-1 accuracy over the reference's.
        accuracy_difference: the candidate's top-1 accuracy less the reference's.
        accuracy_difference_low, accuracy_difference_high: its 95 % interval (`confidence.paired_interval`).
        mcnemar_p: McNemar's exact two-sided p-value of that difference.
        outcomes: for each image in order, as `confidence.pack` writes it, whether the first classes `agree`, and whether
            each side's is the label (`correct`, `reference_correct`): so two runs can be compared image by image.
    """

    images: Annotated[int, msgspec.Meta(ge=1, lt=1 << 31)]
    finite: bool
    max_abs_error: _Magnitude
    mean_abs_error: _Magnitude
    max_rel_error: _Magnitude
    cosine_mean: _Cosine
    cosine_min: _Cosine
    top1_agreement: Fraction | None = None
    top5_agreement: Fraction | None = None
    top1_accuracy: Fraction | None = None
    top5_accuracy: Fraction | None = None
    reference_top1_accuracy: Fraction | None = None
    reference_top5_accuracy: Fraction | None = None
    relative_accuracy: Magnitude | None = None
    accuracy_difference: Difference | None = None
    accuracy_difference_low: Difference | None = None
    accuracy_difference_high: Difference | None = None
    mcnemar_p: Fraction | None = None
    outcomes: dict[str, str] | None = None

    def __post_init__(self) -> None:
        restore_figures(self)
        for name in _ALWAYS:
            if getattr(self, name) is None:
                object.__setattr__(self, name, math.nan)
        for text in (self.outcomes or {}).values():
            unpack(text, self.images)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> ParityReport:
        """Read what `to_dict` wrote, or an earlier version did.

        Raises:
            ValueError: a field is missing, of another type or out of its range; the message names it.
        """
        return convert(dict(data), cls)

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it: a figure that is not finite is a word."""
        return dict(spell(asdict(self)))


@dataclass
class _Errors:
    """One output's running sums."""

    largest: float = 0.0
    total: float = 0.0
    count: int = 0
    magnitude: float = 0.0
    cosine_total: float = 0.0
    cosine_min: float = 1.0
    images: int = 0

    def add(self, reference: NDArray[Any], candidate: NDArray[Any]) -> None:
        a = reference.reshape(len(reference), -1).astype(np.float64)
        b = candidate.reshape(len(candidate), -1).astype(np.float64)
        error = np.abs(a - b)
        self.largest = max(self.largest, float(error.max()))
        self.total += float(error.sum())
        self.count += error.size
        self.magnitude = max(self.magnitude, float(np.abs(a).max()))
        similar = cosines(a, b)
        self.cosine_total += float(similar.sum())
        self.cosine_min = min(self.cosine_min, float(similar.min()))
        self.images += len(a)

    @property
    def relative(self) -> float:
        if self.magnitude == 0:
            return 0.0 if self.largest == 0 else math.inf
        return self.largest / self.magnitude


def cosines(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosines of the rows of two matrices; two zero vectors agree (1), a zero and another do not (0).

    Args:
        a, b: (N, features) float64.

    Returns:
        (N,) float64.
    """
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    same = np.all(a == b, axis=1)
    cosine = np.einsum("ij,ij->i", a, b) / np.where(norms == 0, 1.0, norms)
    return np.where(same, 1.0, np.clip(cosine, -1.0, 1.0))


@dataclass
class OutputComparison:
    """Accumulates batches of two backends' outputs; `report` is the verdict so far.

    Attributes:
        errors: sums and extremes by output name.
        images: how many were compared.
        finite: whether no output had NaN or Inf.
    """

    errors: dict[str, _Errors] = field(default_factory=dict)
    images: int = 0
    finite: bool = True
    _agree1: list[bool] = field(default_factory=list)
    _agree5: list[float] = field(default_factory=list)
    _correct: dict[str, list[bool]] = field(default_factory=dict)

    def add(self, reference: Arrays, candidate: Arrays, labels: NDArray[np.int64] | None = None) -> None:
        """Add one batch.

        Args:
            reference, candidate: arrays by output name, each (N, ...).
            labels: class indices, (N,) int64, where there are any.

        Raises:
            UsageError: names or shapes differ: the two are not the same model.
        """
        shapes = [{name: array.shape for name, array in side.items()} for side in (reference, candidate)]
        if shapes[0] != shapes[1]:
            raise UsageError(f"the outputs are not those of one model: {shapes[0]} and {shapes[1]}")
        self.images += len(next(iter(reference.values())))
        for name, expected in reference.items():
            if not np.issubdtype(expected.dtype, np.floating):
                continue
            if not (np.isfinite(expected).all() and np.isfinite(candidate[name]).all()):
                self.finite = False
                continue
            self.errors.setdefault(name, _Errors()).add(expected, candidate[name])
        ranked = ranking(reference), ranking(candidate)
        if ranked[0] is not None and ranked[1] is not None:
            self._add_ranking(ranked[0], ranked[1], labels)

    def _add_ranking(self, expected: NDArray[np.int64], ranked: NDArray[np.int64], labels: NDArray[np.int64] | None) -> None:
        self._agree1 += (expected[:, 0] == ranked[:, 0]).tolist()
        shared = (expected[:, :, None] == ranked[:, None, :]).any(axis=2)
        self._agree5 += shared.mean(axis=1).tolist()
        if labels is None:
            return
        for side, ranking in (("reference", expected), ("candidate", ranked)):
            hits = ranking == labels[:, None]
            self._correct.setdefault(f"{side}1", []).extend(hits[:, 0].tolist())
            self._correct.setdefault(f"{side}5", []).extend(hits.any(axis=1).tolist())

    def report(self) -> ParityReport:
        """The verdict over every batch so far. Raises UsageError before the first."""
        if not self.images:
            raise UsageError("nothing was compared: there was no image")
        parts = list(self.errors.values()) if self.finite else []
        values: dict[str, Any] = {
            "max_abs_error": max((p.largest for p in parts), default=math.nan),
            "mean_abs_error": sum(p.total for p in parts) / sum(p.count for p in parts) if parts else math.nan,
            "max_rel_error": max((p.relative for p in parts), default=math.nan),
            "cosine_mean": sum(p.cosine_total for p in parts) / sum(p.images for p in parts) if parts else math.nan,
            "cosine_min": min((p.cosine_min for p in parts), default=math.nan),
        }
        if self._agree1:
            values |= {"top1_agreement": _mean(self._agree1), "top5_agreement": _mean(self._agree5)}
            outcomes = {"agree": self._agree1}
            if self._correct:
                values |= _accuracies(self._correct)
                outcomes |= {"correct": self._correct["candidate1"], "reference_correct": self._correct["reference1"]}
            values["outcomes"] = {name: pack(of_images) for name, of_images in outcomes.items()}
        return ParityReport(images=self.images, finite=self.finite, **values)


def ranking(outputs: Arrays) -> NDArray[np.int64] | None:
    """The first classes of each image, best first, (N, <= 5); None where the outputs are not scores of classes."""
    if _TOPK[1] in outputs:
        return np.asarray(outputs[_TOPK[1]][:, :5], np.int64)
    scores = next((outputs[name] for name in _SCORES if name in outputs), None)
    if scores is None:
        return None
    # A stable sort of what is negated: ties go to the lower class on both sides, NaN goes last.
    return np.argsort(-scores, axis=1, kind="stable")[:, :5]


def _mean(values: list[bool] | list[float]) -> float:
    return float(np.mean(values))


def _accuracies(correct: dict[str, list[bool]]) -> dict[str, float | None]:
    reference, right = np.array(correct["reference1"]), np.array(correct["candidate1"])
    gained, lost = int((right & ~reference).sum()), int((reference & ~right).sum())
    low, high = paired_interval(gained, lost, len(right))
    return {
        "top1_accuracy": _mean(correct["candidate1"]),
        "top5_accuracy": _mean(correct["candidate5"]),
        "reference_top1_accuracy": _mean(correct["reference1"]),
        "reference_top5_accuracy": _mean(correct["reference5"]),
        "relative_accuracy": float(right.sum() / reference.sum()) if reference.any() else None,
        "accuracy_difference": (gained - lost) / len(right),
        "accuracy_difference_low": low,
        "accuracy_difference_high": high,
        "mcnemar_p": mcnemar(gained, lost),
    }


def average_views(name: str, scores: NDArray[Any], views: int) -> NDArray[Any]:
    """Average the probabilities of several views of each image.

    Args:
        name: of the output: `logits` or `probabilities`.
        scores: (N * views, classes).
        views: of each image, one after the other.

    Returns:
        (N, classes), logits as the logarithms of the mean probabilities.
    """
    grouped = scores.reshape(-1, views, scores.shape[-1]).astype(np.float64)
    if name == "probabilities":
        return np.asarray(grouped.mean(1), scores.dtype)
    shifted = grouped - grouped.max(-1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    peak = logs.max(1, keepdims=True)
    return np.asarray(np.log(np.exp(logs - peak).mean(1)) + peak[:, 0], scores.dtype)
