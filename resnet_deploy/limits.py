"""The range of every number that is asked for: one table, which the command line and the library check before any work."""

from __future__ import annotations

import math
import numbers
import re
from dataclasses import dataclass
from typing import Any

from resnet_deploy.errors import UsageError

MAX_SIDE = 8192  # pixels of an input's edge: 67 megapixels, of the 100 that an image may have
_DAY_S = 86_400
_SHOWN = 40  # characters of what was found
_WHOLE = re.compile(r"[+-]?\d+", re.ASCII)
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_TIME = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|s|min)", re.ASCII)
_UNITS_S = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The numbers that an option takes, both ends included.

    whole: no fractions. above, below: the low, or the high end, itself is left out. unit: of the ends, for messages.
    """

    low: float
    high: float
    whole: bool = True
    above: bool = False
    below: bool = False
    unit: str = ""

    def holds(self, value: Any) -> bool:
        """Whether a number is within; NaN never is."""
        low = value > self.low if self.above else value >= self.low
        return bool(low and (value < self.high if self.below else value <= self.high))

    def __str__(self) -> str:
        low = f"{'above' if self.above else 'of at least'} {_plain(self.low)}"
        high = f"{'below' if self.below else 'at most'} {_plain(self.high)}"
        return f"a {'whole ' if self.whole else ''}number {low} and {high}{f' {self.unit}' if self.unit else ''}"


def _seconds(low: float, high: float, **ends: bool) -> Limits:
    return Limits(low=low, high=high, whole=False, unit="s", **ends)


# By the options' names in Python. Upper ends are beyond what anybody uses, and below what breaks a runtime or overflows a
# counter: more threads than a process may start end in a segmentation fault.
LIMITS: dict[str, Limits] = {
    "batch": Limits(low=1, high=65_536),
    "max_batch": Limits(low=1, high=65_536),
    "limit": Limits(low=1, high=1_000_000_000, unit="images"),
    "threads": Limits(low=1, high=1024),
    "workers": Limits(low=1, high=1024),
    "streams": Limits(low=1, high=64),
    "instances": Limits(low=1, high=1024),
    "num_classes": Limits(low=1, high=1_000_000),
    "top_k": Limits(low=1, high=1_000_000),
    "image_size": Limits(low=32, high=MAX_SIDE, unit="pixels"),
    "resize": Limits(low=1, high=MAX_SIDE, unit="pixels"),
    "mean": Limits(low=0, high=1, whole=False),
    "std": Limits(low=0, high=10, whole=False, above=True),
    # The first that torch.onnx writes (asked for less, it writes 18 in silence), the last that runtimes read.
    "opset": Limits(low=18, high=23),
    "calibration_images": Limits(low=1, high=1_000_000, unit="images"),
    "max_drop": Limits(low=0, high=100, whole=False, unit="percentage points"),
    "duration": _seconds(0, _DAY_S, above=True),
    "sustained": _seconds(0, _DAY_S, above=True),
    "min_duration": _seconds(0, 7 * _DAY_S, above=True),
    "latency_bound": _seconds(0, 3600, above=True),
    "max_delay": _seconds(0, 60),
    "checkpoint": _seconds(0, _DAY_S),
    "min_queries": Limits(low=1, high=1_000_000_000),
    "rate_tolerance": Limits(low=0, high=1, whole=False, above=True, below=True),
    "optimization_level": Limits(low=0, high=5),
    "workspace_mib": Limits(low=1, high=1 << 22, unit="MiB"),
    "max_aux_streams": Limits(low=0, high=64),
    "avg_timing": Limits(low=1, high=1000, unit="runs"),
    "max_megapixels": Limits(low=0, high=10_000, whole=False, above=True, unit="megapixels"),
}


def check_option(name: str, value: Any, *, label: str | None = None) -> None:
    """Raise UsageError where a number is not within an option's limits.

    Args:
        name: of the option in Python, as in LIMITS.
        value: a number, or a sequence of them, each of which is checked; None is an option that was not given.
        label: what the message calls it, by default the option's name.
    """
    if value is None:
        return
    if isinstance(value, (tuple, list)):
        for item in value:
            check_option(name, item, label=label)
        return
    limits = LIMITS[name]
    kind = numbers.Integral if limits.whole else numbers.Real  # NumPy's scalars among them
    if not isinstance(value, kind) or isinstance(value, bool) or not limits.holds(value):
        raise UsageError(_refusal(name, label, value))


def check_all(**values: Any) -> None:
    """Check several options by their names, as `check_option` does."""
    for name, value in values.items():
        check_option(name, value)


def parse_option(name: str, text: str, *, label: str | None = None) -> int | float:
    """Read a number as people write it, in ASCII digits, within an option's limits. Raises UsageError."""
    limits, stripped = LIMITS[name], text.strip()
    pattern = _WHOLE if limits.whole else _NUMBER
    # Beyond some thousand digits int() itself raises.
    if pattern.fullmatch(stripped) and len(stripped) <= 300 and limits.holds(float(stripped)):
        return int(stripped) if limits.whole else float(stripped)
    raise UsageError(_refusal(name, label, text))


def seconds(name: str, time: float | str, *, label: str | None = None) -> float:
    """Read a time within an option's limits.

    Args:
        name: of the option in Python, as in LIMITS.
        time: a number of seconds, or a text with its unit: us, ms, s or min, as in 15ms.
        label: what the message calls it, by default the option's name.

    Returns:
        Seconds.

    Raises:
        UsageError: a text without a unit, or a time beyond the limits.
    """
    if isinstance(time, str):
        if (parts := _TIME.fullmatch(time.strip())) is None:
            raise UsageError(f"{_shown(time)} is not a time with its unit, as in 15ms, 10s or 10min")
        time = float(parts[1]) * _UNITS_S[parts[2]]
    check_option(name, time, label=label)
    return float(time)


def _refusal(name: str, label: str | None, value: Any) -> str:
    return f"{label or name} must be {LIMITS[name]}; found {_shown(value)}"


def parse_finite(text: str) -> float:
    """Read a finite number in ASCII digits, without other limits. Raises ValueError."""
    if not _NUMBER.fullmatch(text.strip()) or not math.isfinite(value := float(text)):
        raise ValueError(f"{_shown(text)} is not a finite number")
    return value


def _plain(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def _shown(value: Any) -> str:
    if isinstance(value, numbers.Integral) and abs(value) >= 10**_SHOWN:
        return "a number of more than 40 digits"
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... ({len(text)} characters)"
