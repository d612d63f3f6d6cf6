"""A comparison of two runs as a document: the sections that HTML and Markdown both say."""

from __future__ import annotations

from collections.abc import Callable

from markupsafe import Markup

from resnet_deploy.charts.markup import el, join
from resnet_deploy.charts.svg import Axis, Lane, Scale, lanes, mark, swatch
from resnet_deploy.reporting.compare import Change, RunComparison
from resnet_deploy.reporting.document import Document, Section, Table, Tile
from resnet_deploy.reporting.figures import NEUTRAL, Figure
from resnet_deploy.reporting.formatting import count, counted, milliseconds, percent

_LOOK = {"slower": (1, 4), "faster": (2, 2), "same": (NEUTRAL, 0), "inconclusive": (3, 1)}
_EVIDENCE = {"samples": "all samples", "iqr": "interquartile range", "none": "one and the same measurement"}
_FARTHEST = 32.0  # an interval without an end is drawn this far


def comparison_document(compared: RunComparison) -> Document:
    """What became slower, faster or neither; what is missing; what else changed."""
    sections = [_changes(compared)] if compared.changes else []
    sections += [_accuracy(compared)] if compared.accuracy else []
    pairs = [(change.title, text) for change in compared.changes for text in change.differences]
    for title, names, rows in (
        ("What else changed in a row", ("row", "change"), pairs),
        (f"Only in {compared.before}", ("row",), [(row,) for row in compared.only_before]),
        (f"Only in {compared.after}", ("row",), [(row,) for row in compared.only_after]),
    ):
        if rows:
            sections.append(Section(title=title, table=Table(names=names, rows=rows, words=frozenset(names))))
    failed = compared.failures if compared.limit is not None else compared.broken
    return Document(
        title=f"{compared.model}: {compared.after} against {compared.before}", subtitle="Two runs compared by resnet-deploy",
        summary=comparison_summary(compared), tiles=_tiles(compared), sections=sections,
        notices=[
            *(("problem", failure) for failure in failed), *(("warning", doubt) for doubt in compared.inconclusive),
            *(("warning", note) for note in compared.notes),
        ],
    )  # fmt: skip


def comparison_summary(compared: RunComparison) -> list[str]:
    """The comparison in a few sentences."""
    counts = {verdict: [c for c in compared.changes if c.verdict == verdict] for verdict in _LOOK}
    sentences = [
        f"{counted(len(compared.changes), 'row')} in both. Beyond noise: {len(counts['slower'])} slower, "
        f"{len(counts['faster'])} faster; the same: {len(counts['same'])}; inconclusive: {len(counts['inconclusive'])}."
    ]
    if slower := counts["slower"]:
        worst = max(slower, key=lambda change: change.ratio)
        sentences.append(f"Largest slowdown: {worst.title}, by {worst.ratio - 1:.1%}.")
    if faster := counts["faster"]:
        best = min(faster, key=lambda change: change.ratio)
        sentences.append(f"Largest gain: {best.title}, {1 / best.ratio:.2f} times as fast.")
    if fallen := [change for change in compared.accuracy if change.verdict == "worse"]:
        sentences.append(f"Largest fall: {min(fallen, key=lambda change: change.difference)}.")
    if compared.judged:
        doubts = f"{len(compared.inconclusive)} inconclusive"
        sentences.append(f"{counted(len(compared.failures), 'regression')}, {doubts}, by {_limits(compared)}.")
    return sentences


def _limits(compared: RunComparison) -> str:
    drop = compared.max_accuracy_drop
    speed = [] if compared.limit is None else [f"a limit of {compared.limit:.1%} on latency"]
    answers = "the interval of each accuracy" if drop is None else f"a limit of {drop:g} points on accuracies"
    return " and ".join([*speed, answers])


def _tiles(compared: RunComparison) -> list[Tile]:
    notes = {
        "slower": "beyond noise", "faster": "beyond noise", "same": f"to {compared.margin:.1%}",
        "inconclusive": "measure again",
    }  # fmt: skip
    return [
        Tile(name=verdict.capitalize(), value=str(sum(c.verdict == verdict for c in compared.changes)), unit="rows", note=note)
        for verdict, note in notes.items()
    ]


def _changes(compared: RunComparison) -> Section:
    legend = [(swatch(shape, colour), verdict) for verdict, (colour, shape) in _LOOK.items()]
    rows = [
        Lane(label=change.title, values=[1.0, change.ratio, *_ends(change)], draw=_ratio(change), note=f"{change.ratio:.3f}×")
        for change in compared.changes
    ]
    axis = Axis(title="median latency, second over first (below 1 is faster) →", log=True, text=lambda value: f"{value:.3g}×")
    figure = Figure(draw=lambda width: lanes("Change of each row", rows, axis, width), legend=legend)
    notes = [
        "The line through each mark is the 95 % interval of the ratio. A row is slower or faster where it leaves out 1, the "
        f"same where it lies within {compared.margin:.1%} of 1, and inconclusive otherwise"
        + (", or where it has the limit within it." if compared.limit is not None else ".")
    ]
    if any(change.noise == "iqr" for change in compared.changes):
        notes.append("Where a run kept no raw samples, the interval is wide: it follows from the interquartile range alone.")
    return Section(title="Row by row", notes=notes, figures=[figure], table=comparison_table(compared))


def _accuracy(compared: RunComparison) -> Section:
    names = ("candidate", "figure", "before", "after", "points", "95 % interval", "images", "answers", "verdict")
    cells = [
        [
            change.candidate, change.metric, percent(change.before), percent(change.after), f"{change.difference * 100:+.2f}",
            change.interval, count(change.images), change.pairing, change.verdict,
        ]
        for change in compared.accuracy
    ]  # fmt: skip
    notes = [
        "Paired answers are of the same images, compared one by one; unpaired ones as two independent samples, which needs a "
        "larger fall. Worse or better is beyond the interval; a fall of more than a point within it is inconclusive."
    ]
    marked = frozenset(index for index, change in enumerate(compared.accuracy) if change.failure(compared.max_accuracy_drop))
    words = frozenset({"candidate", "figure", "answers", "verdict"})
    return Section(title="Answers", notes=notes, table=Table(names=names, rows=cells, words=words, marked=marked))


def comparison_table(compared: RunComparison) -> Table:
    """The rows that both runs have."""
    names = (
        "backend", "device", "precision", "batch", "before ms", "after ms", "ratio", "95 % interval", "interval from",
        "verdict",
    )  # fmt: skip
    cells = [
        [
            c.backend, c.device, c.precision, str(c.batch), milliseconds(c.before_s), milliseconds(c.after_s),
            f"{c.ratio:.3f}×", f"{c.low:.3f} to {c.high:.3f}", _EVIDENCE[c.noise], c.verdict,
        ]
        for c in compared.changes
    ]  # fmt: skip
    marked = frozenset(index for index, change in enumerate(compared.changes) if change.verdict == "slower")
    words = frozenset({"backend", "device", "precision", "interval from", "verdict"})
    return Table(names=names, rows=cells, words=words, marked=marked)


def _ends(change: Change) -> tuple[float, float]:
    return max(change.low, change.ratio / _FARTHEST), min(change.high, change.ratio * _FARTHEST)


def _ratio(change: Change) -> Callable[[Scale, float], Markup]:
    colour, shape = _LOOK[change.verdict]
    tip = f"{change.title}\n{milliseconds(change.before_s)} ms → {milliseconds(change.after_s)} ms\n"
    tip += f"{change.ratio:.3f}×, {change.low:.3f} to {change.high:.3f}: {change.verdict}"

    def draw(scale: Scale, y: float) -> Markup:
        low, high = _ends(change)
        equal = el("path", d=f"M{scale(1.0):.1f} {y - 13:.1f}v26", class_="one")
        spread = el("path", d=f"M{scale(low):.1f} {y:.1f}H{scale(high):.1f}", class_=f"l c{colour}")
        return join([equal, spread, mark(scale(change.ratio), y, shape, colour, tip)])

    return draw
