"""What a report says of its figures, section by section; a section without data is not there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from resnet_deploy.parity.confidence import describe_difference
from resnet_deploy.reporting import figures, hardware
from resnet_deploy.reporting.document import Section, Table
from resnet_deploy.reporting.formatting import blank, count, counted, milliseconds, number, percent, scientific
from resnet_deploy.reporting.rows import Report, Row, at_batches, best_of_each, pareto

_PARTS = (0, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1)  # of the samples of a row, for the table of latencies
CANDIDATE = frozenset({"backend", "device", "precision"})


def results(rows: Sequence[Row]) -> list[Section]:
    """The curve, and every figure in one table."""
    if not rows:
        return []
    notes = [
        "Latency is host to host: images in host memory to answers in host memory, one batch at a time. Further left and "
        "further up is better; numbers beside the marks are batch sizes; hollow marks fail their gates."
    ]
    if front := pareto(rows):
        notes.append(f"On the Pareto front, which no other row beats in both: {at_batches(front)}.")
    return [
        Section(title="Latency and throughput", notes=notes, figures=[figures.latency_throughput(rows)]),
        Section(title="All results", table=_table(rows)),
    ]


def _table(rows: Sequence[Row]) -> Table:
    ceilings, files = any(hardware.reached(row) is not None for row in rows), any(row.artifact for row in rows)
    devices, queued = len({row.device for row in rows}) > 1, any(row.queued_images_per_s for row in rows)
    names = [
        "backend", *(["device"] if devices else []), "precision", "batch", "p50 ms", "p90 ms", "p99 ms", "device ms", "IQR",
        "images/s", *(["queued images/s"] if queued else []), "vs eager", "top-1", *(["of ceiling"] if ceilings else []),
        "gate", *(["file"] if files else []),
    ]  # fmt: skip
    cells = [
        [
            row.backend, *([row.device] if devices else []), row.precision, str(row.batch), milliseconds(row.p50_s),
            milliseconds(row.p90_s), milliseconds(row.p99_s), milliseconds(row.device_s),
            percent(row.iqr_s / row.p50_s, 0) + ("!" if row.noisy else ""), count(row.images_per_s),
            *([count(row.queued_images_per_s)] if queued else []), "–" if row.speedup is None else f"{row.speedup:.2f}×",
            percent(row.parity.get("top1_accuracy")), *([percent(hardware.reached(row), 1)] if ceilings else []),
            row.gate, *([row.artifact or "–"] if files else []),
        ]
        for row in rows
    ]  # fmt: skip
    return Table(names=names, rows=cells, words=CANDIDATE | {"file", "gate"}, marked=_failed(rows))


def _failed(rows: Sequence[Row]) -> frozenset[int]:
    return frozenset(index for index, row in enumerate(rows) if not row.passed)


_CALLED = {"enqueue": "enqueue ms", "h2d": "H2D ms", "compute": "compute ms", "d2h": "D2H ms", "host": "latency ms"}


def parts(rows: Sequence[Row]) -> list[Section]:
    """A latency's parts by trtexec's names, with the options that they were taken with."""
    keys = [key for key in _CALLED if any(hardware.part_s(row, key) is not None for row in rows)]
    told = [row for row in rows if row.result.get("settings") or any(hardware.part_s(row, key) is not None for key in keys)]
    if keys in ([], ["compute"]) and not any(row.result.get("settings") for row in told):
        return []  # on a CPU compute is the inference itself, which the table of results has
    cells = [
        [
            row.backend, row.precision, str(row.batch), *(milliseconds(hardware.part_s(row, key)) for key in keys),
            milliseconds(row.p50_s), settings(row.result.get("settings") or {}),
        ]
        for row in told
    ]  # fmt: skip
    names = ["backend", "precision", "batch", *(_CALLED[key] for key in keys), "host to host ms", "taken with"]
    drawn = hardware.latency_parts(rows)
    note = (
        "Medians, in trtexec's words: Enqueue Time, H2D Latency, GPU Compute Time, D2H Latency; Latency is the sum of the last "
    )
    note += "three. Host to host is what a caller waits."
    table = Table(names=names, rows=cells, words=CANDIDATE | {"taken with"})
    return [
        Section(
            title="Where the time goes", notes=[note], figures=[drawn] if drawn else [], table=table, folded=drawn is not None
        )
    ]


def settings(options: dict[str, Any]) -> str:
    """Named options as words: `cuda_graph, streams=2, no spin_wait`."""
    words = [
        name if value is True else f"no {name}" if value is False else f"{name}={value}"
        for name, value in options.items()
        if value is not None
    ]
    return ", ".join(words) or "–"


def distributions(rows: Sequence[Row]) -> list[Section]:
    """How steady each row is."""
    if not rows:
        return []
    names = ["backend", "precision", "batch", "samples", "min", "p25", "p50", "p75", "p90", "p95", "p99", "max"]
    cells = []
    for row in rows:
        quantiles = np.quantile(row.host_s, _PARTS).tolist() if row.host_s else [None] * len(_PARTS)
        known = {0.5: row.p50_s, 0.9: row.p90_s, 0.99: row.p99_s}
        places = [known.get(part, sampled) for part, sampled in zip(_PARTS, quantiles, strict=True)]
        cells.append([row.backend, row.precision, str(row.batch), str(row.samples), *map(milliseconds, places)])
    raw = any(row.host_s for row in rows)
    notes = [
        "Each row over its own median, the time on its right: a row that is all at 1 is steady. The thin line ends at the 99th "
        "percentile, with the 90th as a tick on it" + ("; the box is the middle half, faint strokes are samples." * raw or ".")
    ]
    table = Table(names=names, rows=cells, words=CANDIDATE)
    drawn = [figures.latency_distributions(rows)]
    return [Section(title="Latency distribution", notes=notes, figures=drawn, table=table, folded=True)]


def parity(rows: Sequence[Row]) -> list[Section]:
    """What the speed costs in answers."""
    drawn = [figure for figure in (figures.parity_speed(rows), figures.accuracy_speed(rows)) if figure is not None]
    drawn = [*drawn[:1], *(replace(figure, legend=()) for figure in drawn[1:])]
    best = [row for row in best_of_each(rows) if row.parity]
    if not best:
        return []
    files = any(row.artifact for row in best)
    names = ["backend", "precision", *(["file"] if files else []), "images/s", "1 - cosine", "lowest cosine", "agree", "top-1",
             "eager's top-1", "difference", "gate"]  # fmt: skip
    cells = [
        [
            row.backend, row.precision, *([row.artifact or "–"] if files else []), count(row.highest_images_per_s), _loss(row),
            _digits(row.parity.get("cosine_min")), percent(row.parity.get("top1_agreement")),
            percent(row.parity.get("top1_accuracy")), percent(row.parity.get("reference_top1_accuracy")),
            _points(row.parity), row.gate,
        ]
        for row in best
    ]  # fmt: skip
    note = "Each backend and precision at the batch size of its highest throughput."
    if figures.parity_speed(rows) is not None:
        note += " What differs from eager by nothing stands on the lower edge of the logarithmic axis."
    table = Table(names=names, rows=cells, words=CANDIDATE | {"file", "gate"}, marked=_failed(best))
    return [Section(title="Parity and speed", notes=[note], figures=drawn, table=table, folded=bool(drawn))]


def _loss(row: Row) -> str:
    return scientific(row.parity.get("cosine_mean") if row.cosine_loss is None else row.cosine_loss)


def _digits(value: Any) -> str:
    figure = number(value)
    return blank(value) if figure is None else f"{figure:.6f}"


def _points(parity: Any) -> str:
    value, low, high = (number(parity.get(f"accuracy_difference{part}")) for part in ("", "_low", "_high"))
    if value is None:
        return blank(parity.get("accuracy_difference"))
    return f"{value * 100:+.2f} points" if low is None or high is None else describe_difference(value, low, high)


def roofline(rows: Sequence[Row]) -> list[Section]:
    """How near its device's limits each row comes."""
    drawn = hardware.roofline_figure(rows)
    if drawn is None:
        return []
    of_rows = [(row, hardware.rates(row)) for row in rows if hardware.rates(row)]
    rates = list(dict.fromkeys(rate.name for _, of_row in of_rows for rate in of_row))
    names = ["backend", "precision", "batch", *rates, "bound by", "of ceiling", "device of ceiling"]
    cells = []
    for row, of_row in of_rows:
        known, ceiling = {rate.name: count(rate.images_per_s) for rate in of_row}, row.result["roofline"]
        device = number(ceiling.get("device_reached_percent"))
        cells.append(
            [row.backend, row.precision, str(row.batch), *(known.get(name, "–") for name in rates),
             str(ceiling.get("bound", "–")), percent(hardware.reached(row), 1), "–" if device is None else f"{device:.1f}%"]
        )  # fmt: skip
    ceilings = [row.result["roofline"] for row, _ in of_rows]
    devices = ", ".join(dict.fromkeys(str(ceiling.get("device", "the device")) for ceiling in ceilings))
    sources = "; ".join(dict.fromkeys(str(ceiling["source"]) for ceiling in ceilings if ceiling.get("source")))
    notes = [
        f"What {devices} can do at most, in images a second, and what was measured. The floor is kernel by kernel: each at the "
        "slower of its compute and its memory. Percentages are of what the floor and the host link allow."
    ]
    notes += [f"Peaks: {sources}."] if sources else []
    table = Table(names=names, rows=cells, words=CANDIDATE | {"bound by"})
    return [Section(title="Roofline", notes=notes, figures=[drawn], table=table, folded=True)]


def profiles(report: Report) -> list[Section]:
    """Each profile's layers, those that take longest first. Of a backend and precision, the largest batch has a chart."""
    recorded = report.get("profiles") or ()
    largest: dict[tuple[str, ...], float] = {}
    for profile in recorded:
        largest[_line(profile)] = max(largest.get(_line(profile), 0.0), number(profile.get("batch")) or 0.0)
    sections = []
    for profile in recorded:
        title = f"Layer times: {profile['backend']} {profile['precision']}, batch {profile.get('batch')}"
        if profile.get("error"):
            sections.append(Section(title=title, notes=[f"There is no profile: {profile['error']}."]))
        elif profile.get("layers"):
            drawn = figures.layer_times(profile) if number(profile.get("batch")) == largest[_line(profile)] else None
            shown = [drawn] if drawn else []
            sections.append(Section(title=title, notes=[_cost(profile)], figures=shown, table=_layers(profile), folded=True))
    return sections


def _line(profile: Report) -> tuple[str, ...]:
    return profile["backend"], str(profile.get("device")), profile["precision"]


def _cost(profile: Report) -> str:
    """How many layers, how long they take, and what the profiler itself adds."""
    cost = counted(len(profile["layers"]), "layer")
    for name, text in (
        ("total_s", "{} ms in all"),
        ("profiled_s", "{} ms an inference"),
        ("latency_s", "{} ms without a profiler"),
    ):
        cost += "" if number(profile.get(name)) is None else ", " + text.format(milliseconds(profile.get(name)))
    return f"{cost}." + (f" The chart has the {figures.LAYERS} that take longest." * (len(profile["layers"]) > figures.LAYERS))


def _layers(profile: Report) -> Table:
    layers = sorted(profile["layers"], key=lambda layer: -(number(layer.get("time_s")) or 0.0))
    with_names = any(layer.get("onnx") for layer in layers)
    cells = [
        [layer["name"], *([_names(layer.get("onnx"))] if with_names else []), str(layer.get("kind") or "–"),
         str(layer.get("precision") or "–"), _micro(layer.get("time_s")), percent(layer.get("share"), 1)]
        for layer in layers
    ]  # fmt: skip
    names = ("layer", *(["in the graph"] if with_names else []), "kind", "precision", "µs", "share")
    return Table(names=names, rows=cells, words=frozenset({"layer", "in the graph", "kind", "precision"}))


def _names(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else "–" if value is None else str(value)


def _micro(value: Any) -> str:
    seconds = number(value)
    return "–" if seconds is None else f"{seconds * 1e6:,.1f}"
