"""The charts that ask about the device: whose the time is, and how near its limits a row comes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from resnet_deploy.charts.markup import el, join
from resnet_deploy.charts.svg import Axis, Lane, Scale, lanes, mark, swatch
from resnet_deploy.reporting.figures import NEUTRAL, THROUGHPUT, Figure, bar_key, colours
from resnet_deploy.reporting.formatting import count, milliseconds, number, percent
from resnet_deploy.reporting.rows import Row

# trtexec's names of them stand beside ours in the tables.
PARTS = (("h2d", "to the device", 0), ("compute", "compute", 2), ("d2h", "back from it", 1), ("rest", "the rest", NEUTRAL))


def part_s(row: Row, name: str) -> float | None:
    """The median of one part of a row's latency: enqueue, h2d, compute, d2h, host (their sum), or the rest."""
    if name == "rest":
        known = [part_s(row, part) or 0.0 for part in ("h2d", "compute", "d2h")]
        return max(0.0, row.p50_s - sum(known)) if any(known) else None
    return number((row.result.get(f"{name}_latency_s") or {}).get("p50"))


def latency_parts(rows: Sequence[Row]) -> Figure | None:
    """Copies and compute as shares of the latency from host to host. None where no row has copies."""
    drawn = [row for row in rows if part_s(row, "h2d") is not None and part_s(row, "compute") is not None]
    if not drawn:
        return None
    bands, seen = [], set[int]()
    for row in sorted(drawn, key=lambda row: (row.batch, row.p50_s)):
        head = "" if row.batch in seen else f"batch {row.batch}"
        seen.add(row.batch)
        bands.append(
            Lane(label=row.label, values=[0.0, 1.0], note=f"{milliseconds(row.p50_s)} ms", head=head, draw=_stack(row))
        )
    axis = Axis(title="share of the median latency, host to host →", zero=True, text=lambda value: f"{value:.0%}", pad=0.0)
    legend = [(bar_key(colour), name) for _, name, colour in PARTS]
    return Figure(draw=lambda width: lanes("Latency by parts", bands, axis, width), legend=legend)


def _stack(row: Row) -> Callable[[Scale, float], Markup]:
    spans = [(name, colour, seconds) for key, name, colour in PARTS if (seconds := part_s(row, key))]
    whole = sum(seconds for _, _, seconds in spans) or 1.0

    def draw(scale: Scale, y: float) -> Markup:
        start, bars = 0.0, []
        for name, colour, seconds in spans:
            left, right = scale(start), scale(start := start + seconds / whole)
            tip = el("title", f"{row.title}\n{name}: {milliseconds(seconds)} ms, {percent(seconds / whole, 1)}")
            bars.append(
                el(
                    "rect",
                    tip,
                    x=left,
                    y=y - 8,
                    width=max(0.5, right - left),
                    height=16.0,
                    class_=f"bar c{colour}",
                    tabindex="0",
                )
            )
        return join(bars)

    return draw


@dataclass(frozen=True, kw_only=True)
class Rate:
    """A throughput on a row of the roofline. limit: that it sets one. shape: its mark."""

    name: str
    images_per_s: float
    shape: int
    limit: bool


def rates(row: Row) -> list[Rate]:
    """What a row reached and what its device allows, images a second; empty without a roofline."""
    ceiling = row.result.get("roofline") or {}
    limits = (
        ("kernel by kernel", number(ceiling.get("device_images_per_s")), 3), ("compute", _rate(ceiling.get("compute_s")), 4),
        ("memory", _rate(ceiling.get("memory_s")), 1), ("host link", number(ceiling.get("host_images_per_s")), 5),
    )  # fmt: skip
    ceilings = [Rate(name=name, images_per_s=rate, shape=form, limit=True) for name, rate, form in limits if rate and rate > 0]
    if not ceilings:
        return []
    device = None if row.device_s is None else _rate(row.device_s / row.batch)
    reached = (
        ("measured, host to host", row.images_per_s, 0), ("the device alone", device, 2),
        ("batches queued ahead", row.queued_images_per_s, 6),
    )  # fmt: skip
    return [Rate(name=name, images_per_s=rate, shape=form, limit=False) for name, rate, form in reached if rate] + ceilings


def _rate(seconds: Any) -> float | None:
    time_s = number(seconds)
    return None if time_s is None or time_s < 1e-12 else 1 / time_s


def reached(row: Row) -> float | None:
    """Of the ceiling, the fraction that the row's throughput from host to host is."""
    share = number((row.result.get("roofline") or {}).get("reached_percent"))
    return None if share is None else share / 100


def roofline_figure(rows: Sequence[Row]) -> Figure | None:
    """Measured throughput beside the device's limits. None where no row has them."""
    palette, bands, names = colours(rows), [], dict[str, tuple[int, bool]]()
    seen = set[int]()
    for row in sorted(rows, key=lambda row: (row.batch, -row.images_per_s)):
        if not (of_row := rates(row)):
            continue
        names |= {rate.name: (rate.shape, rate.limit) for rate in of_row}
        head = "" if row.batch in seen else f"batch {row.batch}"
        seen.add(row.batch)
        colour = palette[row.backend, row.device]
        bands.append(
            Lane(label=row.label, values=[rate.images_per_s for rate in of_row], note=percent(reached(row), 1), head=head,
                 draw=_ceilings(row, of_row, colour))
        )  # fmt: skip
    if not bands:
        return None
    legend = [
        (swatch(form, NEUTRAL, hollow=limit), f"limit: {name}" if limit else name) for name, (form, limit) in names.items()
    ]
    return Figure(draw=lambda width: lanes("Roofline", bands, THROUGHPUT, width), legend=legend)


def _ceilings(row: Row, of_row: Sequence[Rate], colour: int) -> Callable[[Scale, float], Markup]:
    least = min(rate.images_per_s for rate in of_row if rate.limit)

    def draw(scale: Scale, y: float) -> Markup:
        gap = el("path", d=f"M{scale(row.images_per_s):.1f} {y:.1f}H{scale(least):.1f}", class_="gap")
        marks = [
            mark(scale(rate.images_per_s), y, rate.shape, NEUTRAL if rate.limit else colour, hollow=rate.limit,
                 tip=f"{row.title}\n{rate.name}{' allows' if rate.limit else ''}: {count(rate.images_per_s)} images/s")
            for rate in reversed(of_row)
        ]  # fmt: skip
        return join([gap, *marks])

    return draw
