"""The charts of a report, each drawn for the width that it is asked for, with its legend."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

from resnet_deploy.charts.markup import el
from resnet_deploy.charts.svg import COLOURS, Axis, Lane, Line, Point, Scale, bar, compact, lanes, swatch, xy
from resnet_deploy.precisions import PRECISIONS
from resnet_deploy.reporting.formatting import count, milliseconds, number, percent, scientific
from resnet_deploy.reporting.rows import Row, best_of_each, pareto, series

_SHAPES = {"tf32": 5}  # of what is not in the table of precisions
_OTHER_SHAPE = 6
_QUANTILES = 60
NEUTRAL = 7
LAYERS = 25
LATENCY = Axis(title="median latency of a batch, ms →", log=True, text=lambda value: compact(value * 1e3))
THROUGHPUT = Axis(title="throughput, images/s →", log=True)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """draw: the chart for a width in pixels. legend: keys and names; a name that a line bears can be picked out."""

    draw: Callable[[int], Markup]
    legend: Sequence[tuple[Markup, str]] = ()


def colours(rows: Sequence[Row]) -> dict[tuple[str, str], int]:
    """A colour for each backend on each device, in the order in which they appear."""
    pairs = list(dict.fromkeys((row.backend, row.device) for row in rows))
    return {pair: index for index, pair in enumerate(pairs)}


def shape(precision: str) -> int:
    """A precision's shape, the same in every chart."""
    mark = PRECISIONS[precision].mark if precision in PRECISIONS else _SHAPES.get(precision)
    return _OTHER_SHAPE if mark is None else mark


def _legend(rows: Sequence[Row], *, lines: bool) -> list[tuple[Markup, str]]:
    palette = colours(rows)
    return [
        (swatch(k := shape(group[0].precision), palette[group[0].backend, group[0].device], dash=k if lines else None), label)
        for label, group in series(rows).items()
    ]


def _tip(row: Row) -> str:
    gate = ("passes its gate" if row.passed else "FAILS its gate") + (f": {row.judged}" if row.judged else "")
    queued = "" if row.queued_images_per_s is None else f"\n{count(row.queued_images_per_s)} images/s with batches queued ahead"
    return (
        f"{row.title}\n{milliseconds(row.p50_s)} ms median, p99 {milliseconds(row.p99_s)} ms\n"
        f"{count(row.images_per_s)} images/s{queued}\n{gate}"
    )


def latency_throughput(rows: Sequence[Row]) -> Figure:
    """Latency against throughput, a line for each backend and precision, the Pareto front beneath."""
    palette, front = colours(rows), pareto(rows)
    best = {row.key for row in front}
    lines = [
        Line(
            name=label, colour=palette[group[0].backend, group[0].device], shape=shape(group[0].precision),
            dash=shape(group[0].precision), points=[
                Point(x=row.p50_s, y=row.images_per_s, tip=_tip(row), label=str(row.batch), hollow=not row.passed,
                      ring=row.key in best, reach=row.queued_images_per_s)
                for row in group
            ],
        )
        for label, group in series(rows).items()
    ]  # fmt: skip
    y = Axis(title="↑ throughput, images/s", log=True)
    corners = [(row.p50_s, row.images_per_s) for row in front]
    legend = _legend(rows, lines=True)
    if len(front) > 1:
        legend.append((_key(el("path", d="M0 8h28", class_="front")), "Pareto front"))
    if any(row.queued_images_per_s for row in rows):
        legend.append((_key(el("path", d="M14 15V2m-4 0h8", class_="l c7")), "batches queued ahead"))
    return Figure(draw=lambda width: xy("Latency and throughput", lines, LATENCY, y, width, front=corners), legend=legend)


def _key(*parts: Markup) -> Markup:
    return el("svg", *parts, width=28, height=16, class_="key", aria_hidden="true")


def bar_key(colour: int) -> Markup:
    """A legend's key of a bar."""
    return _key(el("rect", x=4, y=3, width=20, height=10, class_=f"bar c{colour}"))


def latency_distributions(rows: Sequence[Row]) -> Figure:
    """A row's latencies over its own median: every sample's place, the middle half, and the tail to the 99th percentile.

    Over the median, since the spread is what is asked about: on an axis of milliseconds it would vanish among the rows.
    """
    palette, bands, seen = colours(rows), [], set[int]()
    for row in sorted(rows, key=lambda row: (row.batch, row.p50_s)):
        head = "" if row.batch in seen else f"batch {row.batch}"
        seen.add(row.batch)
        values = _quantiles(row.host_s) if row.host_s else [row.p50_s]
        reach = [value / row.p50_s for value in (values[0], row.p50_s, row.p99_s)]
        bands.append(
            Lane(label=row.label, values=reach, draw=_spread(row, palette[row.backend, row.device], values),
                 note=f"{milliseconds(row.p50_s)} ms", head=head)
        )  # fmt: skip
    axis = Axis(
        title="latency over the row's own median (logarithmic) →", log=True, text=lambda value: f"{value:.3g}×", pad=0.03
    )
    return Figure(draw=lambda width: lanes("Latency distributions", bands, axis, width))


def _quantiles(samples: Sequence[float]) -> list[float]:
    """At most 60 values spread evenly over the sorted samples, the extremes among them."""
    parts = np.linspace(0, 1, min(len(samples), _QUANTILES))
    return list(np.quantile(samples, parts, method="nearest").tolist())


def _spread(row: Row, colour: int, values: Sequence[float]) -> Callable[[Scale, float], Markup]:
    kind = f"c{colour % COLOURS}"
    tip = f"{row.title}: median {milliseconds(row.p50_s)} ms, p90 {milliseconds(row.p90_s)} ms, "
    tip += f"p99 {milliseconds(row.p99_s)} ms ({row.p99_s / row.p50_s:.2f}× the median), {row.samples} samples"

    def draw(scale: Scale, y: float) -> Markup:
        middle, p90, p99 = (scale(value / row.p50_s) for value in (row.p50_s, row.p90_s, row.p99_s))
        parts = [
            el("title", tip),
            el("rect", x=scale.start, y=y - 10, width=scale.end - scale.start, height=20.0, class_="hit"),
        ]
        if row.host_s:
            places = dict.fromkeys(f"{scale(value / row.p50_s):.1f}" for value in values)
            parts.append(el("path", d="".join(f"M{place} {y - 6:.1f}v12" for place in places), class_=f"rug {kind}"))
            low, high = np.quantile(row.host_s, (0.25, 0.75)).tolist()
            left, right = scale(low / row.p50_s), scale(high / row.p50_s)
            parts.append(el("rect", x=left, y=y - 6, width=max(1.0, right - left), height=12.0, class_=f"box {kind}"))
        parts.append(el("path", d=f"M{middle:.1f} {y:.1f}H{p99:.1f}m0 -4v8M{p90:.1f} {y - 2.5:.1f}v5", class_=f"l {kind}"))
        parts.append(el("path", d=f"M{middle:.1f} {y - 8:.1f}v16", class_=f"median {kind}"))
        return el("g", *parts, tabindex="0")

    return draw


def parity_speed(rows: Sequence[Row]) -> Figure | None:
    """What the speed costs in fidelity: 1 - mean cosine with eager. None where nothing differs from eager."""
    best = [row for row in best_of_each(rows) if row.cosine_loss is not None]
    if not any(row.cosine_loss for row in best):
        return None
    y = Axis(title="↑ 1 - mean cosine with eager (lower is closer)", log=True)
    return _against(best, "Fidelity and throughput", y, lambda row: (row.cosine_loss or 0.0, None, None), rows)


def accuracy_speed(rows: Sequence[Row]) -> Figure | None:
    """The difference of top-1 from eager, in points with its 95 % interval; without labels, how often the classes differ."""

    def difference(row: Row) -> tuple[float, float | None, float | None]:
        value, low, high = (number(row.parity.get(f"accuracy_difference{part}")) for part in ("", "_low", "_high"))
        return (value or 0.0) * 100, low and low * 100, high and high * 100

    def disagreement(row: Row) -> tuple[float, float | None, float | None]:
        return 100 - 100 * (number(row.parity.get("top1_agreement")) or 0.0), None, None

    best = [row for row in best_of_each(rows) if number(row.parity.get("accuracy_difference")) is not None]
    if best:
        y = Axis(title="↑ top-1 against eager, points (95 % interval)", zero=True)
        return _against(best, "Accuracy and throughput", y, difference, rows)
    best = [row for row in best_of_each(rows) if number(row.parity.get("top1_agreement")) is not None]
    if not best:
        return None
    y = Axis(title="↑ images whose class differs from eager's, %", zero=True)
    return _against(best, "Agreement and throughput", y, disagreement, rows)


def _against(
    best: Sequence[Row],
    title: str,
    y: Axis,
    value: Callable[[Row], tuple[float, float | None, float | None]],
    rows: Sequence[Row],
) -> Figure:
    palette, lines = colours(rows), []
    for row in best:
        place, low, high = value(row)
        agree = percent(row.parity.get("top1_agreement"))
        tip = f"{_tip(row)}\n1 - cosine {scientific(row.cosine_loss)}, classes agree {agree}"
        point = Point(
            x=row.highest_images_per_s, y=place, low=low, high=high, tip=tip, label=row.label, hollow=not row.passed
        )  # fmt: skip
        lines.append(Line(name=row.label, colour=palette[row.backend, row.device], shape=shape(row.precision), points=[point]))
    return Figure(draw=lambda width: xy(title, lines, THROUGHPUT, y, width), legend=_legend(best, lines=False))


def layer_times(profile: Mapping[str, Any]) -> Figure | None:
    """The layers that take longest. None without times."""
    layers = [layer for layer in profile.get("layers") or () if (number(layer.get("time_s")) or 0.0) > 0]
    layers = sorted(layers, key=lambda layer: -layer["time_s"])[:LAYERS]
    if not layers:
        return None
    precisions = list(dict.fromkeys(_precision(layer) for layer in layers))
    rows = [
        Lane(label=layer["name"], values=[layer["time_s"]], note=percent(layer.get("share"), 1),
             draw=bar(layer["time_s"], precisions.index(_precision(layer)) % COLOURS, _layer_tip(layer)))
        for layer in layers
    ]  # fmt: skip
    axis = Axis(title="time, µs →", zero=True, text=lambda value: compact(value * 1e6))
    legend = [(bar_key(index % COLOURS), name) for index, name in enumerate(precisions)]
    return Figure(draw=lambda width: lanes("Layer times", rows, axis, width), legend=legend)


def _precision(layer: Mapping[str, Any]) -> str:
    return str(layer.get("precision") or "unknown")


def _layer_tip(layer: Mapping[str, Any]) -> str:
    return f"{layer['name']}: {layer['time_s'] * 1e6:,.1f} µs, {layer.get('kind') or 'unknown'}, {_precision(layer)}"
