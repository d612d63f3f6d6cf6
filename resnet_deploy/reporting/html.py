"""A report as one HTML file: nothing is loaded from anywhere, and it can be read without its script."""

from __future__ import annotations

from importlib.resources import files

from markupsafe import Markup

from resnet_deploy.charts.markup import el, join
from resnet_deploy.charts.svg import NARROW, WIDE, style
from resnet_deploy.reporting.document import Document, Section, Table, Tile
from resnet_deploy.reporting.figures import Figure
from resnet_deploy.reporting.formatting import counted

# Whatever a name in a report would make the browser do, it may neither load nor send anything.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
_SORTED_FROM = 6
_LONG = "w long"
_SHORT = 42
_SEVERITIES = {"problem", "warning", "advice"}


def html_page(content: Document) -> str:
    """The page. Every text in it is escaped, whatever a file, a class or a backend is called."""
    head = el(
        "head", el("meta", charset="utf-8"), el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        el("meta", name="color-scheme", content="light dark"),
        el("link", rel="icon", href="data:,"), el("title", content.title), el("style", style(), _file("page.css")),
    )  # fmt: skip
    titles: dict[str, int] = {}  # `Layer times: a`, `Layer times: b`, ... have one link
    for index, section in enumerate(content.sections):
        titles.setdefault(section.title.partition(":")[0], index)
    links = [el("a", title, href=f"#s{index}") for title, index in titles.items()]
    main = el(
        "main",
        el("header", el("h1", content.title), el("p", content.subtitle, class_="sub")),
        el("p", content.decision, class_="decision") if content.decision else None,
        el("div", *map(_tile, content.tiles), class_="tiles") if content.tiles else None,
        el("ul", *(el("li", sentence) for sentence in content.summary), class_="said"),
        *(_notice(severity, text) for severity, text in content.notices),
        el("nav", *links, aria_label="Sections"),
        *(_section(section, index) for index, section in enumerate(content.sections)),
    )
    body = el("body", main, el("script", _file("page.js")))
    return str(join([Markup("<!doctype html>\n"), el("html", head, "\n", body, lang="en"), "\n"]))


def _file(name: str) -> Markup:
    """A part of the page that is kept beside this module."""
    return Markup((files("resnet_deploy.reporting") / name).read_text("utf-8"))


def _tile(tile: Tile) -> Markup:
    figure = el("b", tile.value, el("small", tile.unit))
    return el("div", el("span", tile.name), figure, el("i", tile.note), class_="tile")


def _notice(severity: str, text: str) -> Markup:
    known = severity if severity in _SEVERITIES else "warning"
    return el("p", el("b", severity), ": ", text, class_=f"notice {known}", role="note")


def _section(section: Section, index: int) -> Markup:
    parts: list[Markup] = [el("h2", section.title), *(el("p", note, class_="note") for note in section.notes)]
    parts += map(_figure, section.figures)
    if section.table is not None and section.table.rows:
        shown = _table(section.table)
        caption = "The figures as a table" if section.figures else f"The table, {counted(len(section.table.rows), 'row')}"
        parts.append(el("details", el("summary", caption), shown) if section.folded else shown)
    if section.code:
        parts.append(el("pre", el("code", "\n".join(section.code))))
    return el("section", *parts, id=f"s{index}")


def _figure(figure: Figure) -> Markup:
    """Drawn twice, for a desk and for a telephone: scaled text would be too small to read."""
    names = [el("li", key, el("span", name)) for key, name in figure.legend]
    return el(
        "figure", el("ul", *names, class_="legend") if names else None, el("div", figure.draw(WIDE), class_="wide"),
        el("div", figure.draw(NARROW), class_="narrow"),
    )  # fmt: skip


def _table(table: Table) -> Markup:
    """With a column of longer words, it wraps; whatever does not fit scrolls inside its own frame."""
    if len(table.names) == 2 and len(table.words) == 2:
        return _pairs(table)
    words = ["w" if name in table.words else None for name in table.names]
    kinds = [_LONG if any(len(row[at]) > 32 for row in table.rows) and word else word for at, word in enumerate(words)]
    head = el("tr", *(el("th", name, scope="col", class_=word) for name, word in zip(table.names, words, strict=True)))
    rows = [
        el("tr", *(el("td", cell, class_=kind) for cell, kind in zip(row, kinds, strict=True)),
           class_="bad" if index in table.marked else None)
        for index, row in enumerate(table.rows)
    ]  # fmt: skip
    whole = el("table", el("thead", head), el("tbody", join(rows)), class_="sorts" if len(rows) >= _SORTED_FROM else None)
    return el("div", whole, class_="scroll", tabindex="0", role="region", aria_label="Table")


def _pairs(table: Table) -> Markup:
    """Names and values; many short ones stand in columns."""
    packed = len(table.rows) > _SORTED_FROM and all(len(name) + len(value) <= _SHORT for name, value in table.rows)
    pairs = [(el("dt", name), el("dd", value)) for name, value in table.rows]
    return el("dl", *(el("div", *pair) if packed else join(pair) for pair in pairs), class_="packed" if packed else None)
