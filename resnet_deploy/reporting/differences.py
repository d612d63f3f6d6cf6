"""A comparison of two runs as a document: the sections that HTML and Markdown both say."""

from __future__ import annotations

from collections.abc import Callable

from markupsafe import Markup

from resnet_deploy.charts.markup import el, join
from resnet_deploy.charts.svg import Axis, Lane, Scale, lanes, mark, swatch
from resnet_deploy.reporting.compare import Change, RunComparison
from resnet_deploy.reporting.document import Document, Section, Table, Tile
from resnet_deploy.reporting.figures import NEUTRAL, Figure
from resnet_deploy.reporting.words import count, counted, milliseconds, percent

_LOOK = {"slower": (1, 4), "faster": (2, 2), "same": (NEUTRAL, 0), "inconclusive": (3, 1)}
_EVIDENCE = {"samples": "all samples", "iqr": "spread of the middle half", "none": "one and the same measurement"}
_FARTHEST = 32.0  # an interval without an end is drawn this far


def comparison(found: RunComparison) -> Document:
    """What became slower, faster or neither; what is missing; what else changed."""
    sections = [_changes(found)] if found.changes else []
    sections += [_accuracy(found)] if found.accuracy else []
    pairs = [(change.title, said) for change in found.changes for said in change.differences]
    for title, names, rows in (
        ("What else changed in a row", ("row", "change"), pairs),
        (f"Only in {found.before}", ("row",), [(row,) for row in found.only_before]),
        (f"Only in {found.after}", ("row",), [(row,) for row in found.only_after]),
    ):
        if rows:
            sections.append(Section(title=title, table=Table(names=names, rows=rows, words=frozenset(names))))
    failed = found.failures if found.limit is not None else found.broken
    return Document(
        title=f"{found.model}: {found.after} against {found.before}", subtitle="Two runs compared by resnet-deploy",
        summary=summary(found), tiles=_tiles(found), sections=sections,
        notices=[
            *(("problem", said) for said in failed), *(("warning", doubt) for doubt in found.inconclusive),
            *(("warning", note) for note in found.notes),
        ],
    )  # fmt: skip


def summary(found: RunComparison) -> list[str]:
    """The comparison in a few sentences."""
    counts = {verdict: [c for c in found.changes if c.verdict == verdict] for verdict in _LOOK}
    said = [
        f"{counted(len(found.changes), 'row')} in both. Beyond noise: {len(counts['slower'])} slower, "
        f"{len(counts['faster'])} faster; the same: {len(counts['same'])}; inconclusive: {len(counts['inconclusive'])}."
    ]
    if slower := counts["slower"]:
        worst = max(slower, key=lambda change: change.ratio)
        said.append(f"Most slowed: {worst.title}, by {worst.ratio - 1:.1%}.")
    if faster := counts["faster"]:
        best = min(faster, key=lambda change: change.ratio)
        said.append(f"Most gained: {best.title}, {1 / best.ratio:.2f} times as fast.")
    if fallen := [one for one in found.accuracy if one.verdict == "worse"]:
        said.append(f"Most fallen: {min(fallen, key=lambda one: one.difference)}.")
    if found.judged:
        doubts = f"{len(found.inconclusive)} inconclusive"
        said.append(f"{counted(len(found.failures), 'regression')}, {doubts}, by {_limits(found)}.")
    return said


def _limits(found: RunComparison) -> str:
    drop = found.max_accuracy_drop
    speed = [] if found.limit is None else [f"a limit of {found.limit:.1%} on latency"]
    answers = "the interval of each accuracy" if drop is None else f"a limit of {drop:g} points on accuracies"
    return " and ".join([*speed, answers])


def _tiles(found: RunComparison) -> list[Tile]:
    notes = {
        "slower": "beyond noise", "faster": "beyond noise", "same": f"to {found.margin:.1%}", "inconclusive": "measure again",
    }  # fmt: skip
    return [
        Tile(name=verdict.capitalize(), value=str(sum(c.verdict == verdict for c in found.changes)), unit="rows", note=note)
        for verdict, note in notes.items()
    ]


def _changes(found: RunComparison) -> Section:
    legend = [(swatch(shape, colour), verdict) for verdict, (colour, shape) in _LOOK.items()]
    rows = [
        Lane(label=change.title, values=[1.0, change.ratio, *_ends(change)], draw=_ratio(change), note=f"{change.ratio:.3f}×")
        for change in found.changes
    ]
    axis = Axis(title="median latency, second over first (below 1 is faster) →", log=True, text=lambda value: f"{value:.3g}×")
    figure = Figure(draw=lambda width: lanes("Change of each row", rows, axis, width), legend=legend)
    notes = [
        "The line through each mark is the 95 % interval of the ratio. A row is slower or faster where it leaves out 1, the "
        f"same where it lies within {found.margin:.1%} of 1, and inconclusive otherwise"
        + (", or where it has the limit within it." if found.limit is not None else ".")
    ]
    if any(change.noise == "iqr" for change in found.changes):
        notes.append("Where a run kept no raw samples, the interval is wide: it follows from the middle half's spread alone.")
    return Section(title="Row by row", notes=notes, figures=[figure], table=table(found))


def _accuracy(found: RunComparison) -> Section:
    names = ("candidate", "figure", "before", "after", "points", "95 % interval", "images", "answers", "verdict")
    cells = [
        [
            one.candidate, one.metric, percent(one.before), percent(one.after), f"{one.difference * 100:+.2f}", one.interval,
            count(one.images), one.pairing, one.verdict,
        ]
        for one in found.accuracy
    ]  # fmt: skip
    notes = [
        "Paired answers are of the same images, compared one by one; unpaired ones as two independent samples, which needs a "
        "larger fall. Worse or better is beyond the interval; a fall of more than a point within it is inconclusive."
    ]
    marked = frozenset(index for index, one in enumerate(found.accuracy) if one.failure(found.max_accuracy_drop))
    words = frozenset({"candidate", "figure", "answers", "verdict"})
    return Section(title="Answers", notes=notes, table=Table(names=names, rows=cells, words=words, marked=marked))


def table(found: RunComparison) -> Table:
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
        for c in found.changes
    ]  # fmt: skip
    marked = frozenset(index for index, change in enumerate(found.changes) if change.verdict == "slower")
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
        one = el("path", d=f"M{scale(1.0):.1f} {y - 13:.1f}v26", class_="one")
        spread = el("path", d=f"M{scale(low):.1f} {y:.1f}H{scale(high):.1f}", class_=f"l c{colour}")
        return join([one, spread, mark(scale(change.ratio), y, shape, colour, tip)])

    return draw
