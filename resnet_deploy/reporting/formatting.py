"""Numbers as people read them."""

from __future__ import annotations

import math
import re
from typing import Any

from resnet_deploy._figures import SPELLED
from resnet_deploy.errors import UsageError


def number(value: Any) -> float | None:
    """A finite number, or None."""
    try:
        return float(value) if isinstance(value, (int, float)) and math.isfinite(value) else None
    except OverflowError:  # a whole number beyond every double
        return None


def blank(value: Any) -> str:
    """In the place of a number: how a figure that is not finite is spelled, else a dash."""
    return value if isinstance(value, str) and value in SPELLED else "–"


def milliseconds(seconds: Any) -> str:
    """Seconds as milliseconds with the digits that count; a dash where there are none."""
    figure = number(seconds)
    if figure is None:
        return blank(seconds)
    value = figure * 1e3
    return f"{value:,.{0 if value >= 1000 else 1 if value >= 100 else 2 if value >= 10 else 3}f}"


def count(value: Any) -> str:
    """A rate or a count without decimals; small rates keep one."""
    figure = number(value)
    return (
        blank(value) if figure is None else f"{figure:,.1f}" if 0 < figure < 10 and figure != int(figure) else f"{figure:,.0f}"
    )


def counted(number: int, what: str) -> str:
    """So many of something: `1 row`, `2 rows`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def percent(value: Any, digits: int = 2) -> str:
    """A fraction as a percentage."""
    figure = number(value)
    return blank(value) if figure is None else f"{figure:.{digits}%}"


def scientific(value: Any) -> str:
    """A small error in two digits; zero as 0."""
    figure = number(value)
    return blank(value) if figure is None else "0" if figure == 0 else f"{figure:.1e}"


def metric(name: str, value: Any) -> str:
    """A figure by the unit in its name: latency_p90_s is written in ms, top1_accuracy in percent."""
    figure = number(value)
    if figure is None:
        return "–" if value is None else str(value)
    if "accuracy" in name and "images" not in name:
        return percent(figure)
    if "latency" in name and name.endswith("_s"):
        return milliseconds(figure)
    return f"{figure:,.0f}" if figure == int(figure) or abs(figure) >= 1000 else f"{figure:,.2f}"


def metric_name(name: str) -> str:
    """The heading of such a figure."""
    if name.endswith("_per_s"):
        return name.removesuffix("_per_s").replace("_", " ") + "/s"
    if name.endswith("_qps"):
        return name.removesuffix("_qps").replace("_", " ") + " queries/s"
    unit = " ms" if "latency" in name else " s"
    return (name.removesuffix("_s") + unit if name.endswith("_s") else name).replace("_", " ")


def share(text: float | str) -> float:
    """A fraction as it is given: `5%` or 0.05. Raises UsageError for what is neither, and for 100 % and more."""
    value = _quantity(text, 0.01)
    if value is None or value >= 1:
        raise UsageError(f"{text!r} is not a share, as in 5% or 0.05")
    return value


def points(text: float | str) -> float:
    """Percentage points as they are given: `0.5` or `0.5%`. Raises UsageError for what is neither, and above 100."""
    value = _quantity(text, 1.0)
    if value is None or value > 100:
        raise UsageError(f"{text!r} is no number of percentage points from 0 to 100, as in 0.5")
    return value


def _quantity(text: float | str, percent_is: float) -> float | None:
    """A number of 0 or more, a text's in percent times what a percent is; None where it is none."""
    if isinstance(text, (int, float)):
        return float(text) if number(text) is not None and text >= 0 else None
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,18})?)\s*(%?)", text.strip())
    return None if match is None else float(match[1]) * (percent_is if match[2] else 1.0)
