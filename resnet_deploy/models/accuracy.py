"""What a checkpoint is said to reach: by its publisher, by what its training script stored in it, or by the log beside it."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

# Where training scripts keep the top-1 of their validation: torchvision's references, PyTorch's ImageNet example, timm, others.
_KEYS = ("best_acc1", "best_prec1", "best_top1", "best_acc", "best_accuracy", "acc1", "top1", "val_acc1", "val_acc", "val_top1")
_LOG = "summary.csv"  # of timm's training script, in the folder of its checkpoints
_COLUMN = "eval_top1"  # percent
_LOG_BYTES = 10_000_000


def stored_accuracy(tree: Any) -> float | None:
    """The top-1 accuracy, a fraction, that a training script stored beside the weights; None where there is none."""
    if not isinstance(tree, dict):
        return None
    return next((accuracy for key in _KEYS if (accuracy := _fraction(tree.get(key))) is not None), None)


def logged_accuracy(checkpoint: Path) -> float | None:
    """The best top-1 accuracy, a fraction, of the training's log in a checkpoint's folder; None where there is none."""
    log = checkpoint.parent / _LOG
    try:
        if not log.is_file() or log.stat().st_size > _LOG_BYTES:
            return None
        with log.open(newline="", encoding="utf-8", errors="replace") as file:
            values = [_percent(row.get(_COLUMN)) for row in csv.DictReader(file)]
    except (OSError, csv.Error):
        return None
    return max((value for value in values if value is not None), default=None)


def _percent(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value / 100 if math.isfinite(value) and 0 < value <= 100 else None


def _fraction(value: Any) -> float | None:
    """Scripts store percent or fractions; an accuracy of 1 % or less would be read as a fraction, and nobody keeps those."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value) or not 0 < value <= 100:
        return None
    return value / 100 if value > 1 else float(value)
