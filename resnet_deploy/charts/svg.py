"""Charts as SVG: scales, axes, marks, lines, lanes. Standard library alone.

A chart is drawn for a width in pixels, so that its text has its size on a telephone as on a desk: pages hold each chart
twice, and show the one that fits. Colours are CSS classes of chart.css (`c0` to `c7`), shapes stand beside them, and what is
hovered over is in a <title>.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from importlib.resources import files

from markupsafe import Markup

from resnet_deploy.charts.markup import el, join

COLOURS = 8
WIDE, NARROW = 1040, 344
_TEXT_PX = 6.6  # the width of a character, about


def compact(value: float) -> str:
    """A number in few characters: 0.25, 40, 1.5k, 2M, 1e-07."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= limit * 0.9995:
            return f"{value / limit:.3g}{unit}"
    return "0" if value == 0 else f"{value:.0e}" if abs(value) < 1e-3 else f"{value:.3g}"


@dataclass(frozen=True, kw_only=True)
class Axis:
    """A quantity with its unit. text: a tick's value as it is written. pad: room at either end, a fraction of the range."""

    title: str
    log: bool = False
    text: Callable[[float], str] | None = None
    zero: bool = False
    pad: float = 0.06

    def write(self, value: float) -> str:
        return self.text(value) if self.text else compact(value)


class Scale:
    """Values to pixels."""

    def __init__(self, values: Iterable[float], axis: Axis, start: float, end: float) -> None:
        self.axis, self.start, self.end = axis, start, end
        shown = [value for value in values if math.isfinite(value) and (value > 0 or not axis.log)] or [1.0]
        low, high = self._in(min(shown)), self._in(max(shown))
        if axis.zero and not axis.log:
            low, high = min(low, 0.0), max(high, 0.0)
        span = (high - low) or (0.3 if axis.log else abs(high) * 0.2 or 1.0)
        keep_zero = axis.zero and not axis.log and low == 0.0
        self.low, self.high = (low if keep_zero else low - span * axis.pad), high + span * axis.pad

    def _in(self, value: float) -> float:
        return math.log10(value) if self.axis.log else value

    def __call__(self, value: float) -> float:
        """A value's place; one that is off the scale, as zero on a logarithmic one, lies on its edge."""
        if self.axis.log and value <= 0:
            return self.start
        part = (self._in(value) - self.low) / (self.high - self.low)
        return self.start + min(1.0, max(0.0, part)) * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Round values, as many as there is room for."""
        apart = 60 if self.end > self.start else 42  # texts stand side by side, or one above the other
        room = max(2, int(abs(self.end - self.start) / apart))
        return _log_ticks(self.low, self.high, room) if self.axis.log else _ticks(self.low, self.high, room)


def _ticks(low: float, high: float, room: int) -> list[float]:
    step = 10.0 ** math.floor(math.log10((high - low) / room))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (step * factor) <= room)
    first = math.ceil(low / step)
    return [index * step for index in range(first, math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float, room: int) -> list[float]:
    if high - low < 0.6:  # less than a factor of four: decades say nothing here
        return _ticks(10**low, 10**high, room)
    exponents = range(math.floor(low), math.ceil(high) + 1)
    fine = ((1, 1.5, 2, 3, 4, 5, 6, 8), (1, 2, 3, 5, 7)) if high - low < 1.2 else ()
    for digits in (*fine, (1, 2, 5), (1, 3), (1,)):
        ticks = [digit * 10.0**e for e in exponents for digit in digits]
        ticks = [value for value in ticks if low <= math.log10(value) <= high]
        if len(ticks) <= room or digits == (1,):
            break
    return ticks[:: math.ceil(len(ticks) / room)]


# Shapes around the origin, of one visual weight: what colours say, they say again.
SHAPES = (
    "M-4.5 0a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0Z", "M-4 -4h8v8h-8Z", "M0 -5.6L5.2 4H-5.2Z", "M0 -5.6L5.6 0L0 5.6L-5.6 0Z",
    "M0 5.6L5.2 -4H-5.2Z", "M-1.7 -5h3.4v3.3h3.3v3.4h-3.3v3.3h-3.4v-3.3h-3.3v-3.4h3.3Z",
    "M0 -5.8L1.6 -1.9L5.7 -1.8L2.5 .9L3.5 4.9L0 2.6L-3.5 4.9L-2.5 .9L-5.7 -1.8L-1.6 -1.9Z", "M-5.5 -3h11v6h-11Z",
)  # fmt: skip


def mark(x: float, y: float, shape: int, colour: int, tip: str = "", *, hollow: bool = False, ring: bool = False) -> Markup:
    """One data point. hollow: it failed. ring: it is on the front."""
    path = el(
        "path", el("title", tip) if tip else None, d=SHAPES[shape % len(SHAPES)], transform=f"translate({x:.1f} {y:.1f})",
        class_=f"m c{colour % COLOURS}{' hollow' if hollow else ''}", tabindex="0" if tip else None,
    )  # fmt: skip
    return join([el("circle", cx=x, cy=y, r=9.0, class_="ring") if ring else None, path])


def swatch(shape: int, colour: int, *, dash: int | None = None, hollow: bool = False) -> Markup:
    """A legend's key."""
    line = None if dash is None else el("path", d="M0 8h28", class_=f"l c{colour % COLOURS} d{dash}")
    point = mark(14, 8, shape, colour, hollow=hollow)
    return el("svg", line, point, width=28, height=16, class_="key", aria_hidden="true")


@dataclass(frozen=True, kw_only=True)
class Point:
    """x, y in the axes' units. tip: what hovering says. label: a short text beside it. low, high: of y, an interval. reach: of
    y, how much more it can be."""

    x: float
    y: float
    tip: str
    label: str = ""
    hollow: bool = False
    ring: bool = False
    low: float | None = None
    high: float | None = None
    reach: float | None = None


@dataclass(frozen=True, kw_only=True)
class Line:
    """Points of one name. dash: which of the page's dashes joins them; None for marks alone."""

    name: str
    colour: int
    shape: int
    points: Sequence[Point] = field(default=())
    dash: int | None = None


def svg(width: float, height: float, title: str, *parts: object) -> Markup:
    """The drawing's frame; its title is for those who hear the page."""
    return el(
        "svg", *parts, viewBox=f"0 0 {width:.0f} {height:.0f}", width=float(width), height=float(height),
        role="img", aria_label=title, class_="chart",
    )  # fmt: skip


def style() -> Markup:
    """The style sheet that charts need: the colours, and the classes of what is drawn."""
    return Markup((files("resnet_deploy.charts") / "chart.css").read_text("utf-8"))


def standalone(chart: Markup) -> str:
    """A chart as an SVG file of its own, with its style in it."""
    ground = el("rect", width="100%", height="100%", style="fill: var(--bg)")
    head, _, drawing = chart.partition(">")
    return f'{head} xmlns="http://www.w3.org/2000/svg">{el("style", style())}{ground}{drawing}'


def xy(title: str, lines: Sequence[Line], x: Axis, y: Axis, width: int, *, front: Sequence[tuple[float, float]] = ()) -> Markup:
    """Points over two axes. front: the corners of the Pareto front, drawn beneath."""
    height, left, top = (430, 52, 30) if width > NARROW else (350, 46, 30)
    points = [point for line in lines for point in line.points]
    reach = [v for p in points for v in (p.y, p.low, p.high, p.reach) if v is not None]
    across = Scale([point.x for point in points], x, left, width - 14)
    up = Scale(reach, y, height - 46, top)
    frame = [_grid_x(across, top, height - 46), _grid_y(up, left, width - 14)]
    frame.append(el("text", y.title, x=2, y=14, class_="axis"))
    frame.append(el("text", x.title, x=float(width - 14), y=float(height - 6), class_="axis", text_anchor="end"))
    if len(front) > 1:
        frame.append(el("path", d=_path([(across(a), up(b)) for a, b in front]), class_="front"))
    boxes: list[tuple[float, float, float, float]] = [
        (across(p.x) - 6, up(p.y) - 6, across(p.x) + 6, up(p.y) + 6) for p in points
    ]
    drawn = [_line(line, across, up) for line in lines]
    labels = [_label(point, across, up, boxes, width) for point in sorted(points, key=lambda point: not point.ring)]
    return svg(width, height, title, *frame, *drawn, *labels)


def _line(line: Line, across: Scale, up: Scale) -> Markup:
    places = [(across(point.x), up(point.y)) for point in line.points]
    joined = line.dash is not None and len(places) > 1
    spread = [
        el("path", class_=f"l c{line.colour % COLOURS}",
           d=f"M{px:.1f} {up(p.low):.1f}V{up(p.high):.1f}m-4 0h8M{px - 4:.1f} {up(p.low):.1f}h8")
        for (px, _), p in zip(places, line.points, strict=True) if p.low is not None and p.high is not None
    ]  # fmt: skip
    spread += [
        el("path", class_=f"l c{line.colour % COLOURS}", d=f"M{px:.1f} {py:.1f}V{up(p.reach):.1f}m-4 0h8")
        for (px, py), p in zip(places, line.points, strict=True) if p.reach is not None and p.reach > p.y
    ]  # fmt: skip
    marks = [
        mark(px, py, line.shape, line.colour, p.tip, hollow=p.hollow, ring=p.ring)
        for (px, py), p in zip(places, line.points, strict=True)
    ]
    path = el("path", d=_path(places), class_=f"l c{line.colour % COLOURS} d{line.dash}") if joined else None
    return el("g", path, *spread, *marks, class_="s", data_s=line.name)


def _label(point: Point, across: Scale, up: Scale, taken: list[tuple[float, float, float, float]], width: int) -> Markup | None:
    """A point's label where there is room for it, else nothing: its tip and the table have it."""
    if not point.label:
        return None
    x, y, wide = across(point.x), up(point.y), len(point.label) * _TEXT_PX
    for dx, dy in ((9, 4), (-9 - wide, 4), (-wide / 2, -10), (-wide / 2, 18)):
        box = (x + dx, y + dy - 10, x + dx + wide, y + dy + 1)
        free = all(box[2] < b[0] or box[0] > b[2] or box[3] < b[1] or box[1] > b[3] for b in taken)
        if free and across.start <= box[0] and box[2] <= width and up.end - 4 <= box[1] and box[3] <= up.start:
            taken.append(box)
            return el("text", point.label, x=x + dx, y=y + dy, class_="note")
    return None


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)


def _grid_x(scale: Scale, top: float, bottom: float, *, above: bool = False) -> Markup:
    """Vertical lines with their values beneath, and above too in a tall chart."""
    ticks = scale.ticks()
    lines = el("path", d="".join(f"M{scale(tick):.1f} {top:.1f}V{bottom:.1f}" for tick in ticks), class_="grid")
    places = [bottom + 16] + ([top - 6] if above else [])
    texts = [el("text", scale.axis.write(tick), x=scale(tick), y=y, text_anchor="middle") for y in places for tick in ticks]
    return join([lines, *texts])


def _grid_y(scale: Scale, left: float, right: float) -> Markup:
    ticks = scale.ticks()
    lines = el("path", d="".join(f"M{left:.1f} {scale(tick):.1f}H{right:.1f}" for tick in ticks), class_="grid")
    texts = [el("text", scale.axis.write(tick), x=left - 6.0, y=scale(tick) + 4, text_anchor="end") for tick in ticks]
    return join([lines, *texts])


@dataclass(frozen=True, kw_only=True)
class Lane:
    """A labelled row of a lane chart. head: a heading above it, where a new group begins. values: that the axis has to
    reach. draw: what stands in it, given the scale and the middle's y. note: a text at its end."""

    label: str
    values: Sequence[float]
    draw: Callable[[Scale, float], Markup]
    note: str = ""
    head: str = ""


def bar(value: float, colour: int, tip: str) -> Callable[[Scale, float], Markup]:
    """A lane's drawing: a bar from the axis's start to a value; the whole lane says the tip."""

    def draw(scale: Scale, y: float) -> Markup:
        shown = el("rect", x=scale.start, y=y - 7, width=max(1.0, scale(value) - scale.start), height=14.0,
                   class_=f"bar c{colour}")  # fmt: skip
        hit = el("rect", x=scale.start, y=y - 10, width=scale.end - scale.start, height=20.0, class_="hit")
        return el("g", el("title", tip), hit, shown, tabindex="0")

    return draw


def lanes(title: str, rows: Sequence[Lane], axis: Axis, width: int) -> Markup:
    """Rows over one axis; on a narrow page the labels stand above their rows."""
    wide = width > NARROW
    longest = max(len(row.label) for row in rows)
    left = min(230.0, longest * _TEXT_PX + 12) if wide else 8.0
    notes = max(len(row.note) for row in rows) * _TEXT_PX
    right = width - (notes + 16 if wide and notes else 14)
    step, lift = (25.0, 0.0) if wide else (38.0, 15.0)
    many = len(rows) > 14
    y, parts, top = (24.0 if many else 8.0), [], (24.0 if many else 8.0)
    scale = Scale([value for row in rows for value in row.values], axis, left, right)
    for row in rows:
        if row.head:
            y += 22
            parts.append(el("text", row.head, x=2, y=y - 6, class_="head"))
        parts.append(
            _lane(row, scale, y + lift, y + lift + (step - lift) / 2, width, longest=int(left / _TEXT_PX) if wide else 0)
        )
        y += step
    grid = _grid_x(scale, top, y + 2, above=many)
    caption = el("text", axis.title, x=float(right), y=y + 36, class_="axis", text_anchor="end")
    return svg(width, y + 42, title, grid, *parts, caption)


def _lane(row: Lane, scale: Scale, y: float, middle: float, width: int, *, longest: int) -> Markup:
    """longest: characters that fit beside the row; 0 where the label stands above it."""
    room = longest - 1 if longest else int((width - len(row.note) * _TEXT_PX - 20) / _TEXT_PX)
    label = row.label if len(row.label) <= room else row.label[: room - 1] + "…"
    base = middle + 4 if longest else y - 3
    texts = [el("text", label, x=2, y=base, class_="name")]
    if row.note:
        texts.append(el("text", row.note, x=float(width - 2), y=base, class_="note", text_anchor="end"))
    return el("g", *texts, row.draw(scale, middle))
