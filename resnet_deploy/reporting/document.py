"""A report as data: sections of sentences, charts and tables. What HTML and Markdown both say is made of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from resnet_deploy.reporting.figures import Figure


@dataclass(frozen=True, kw_only=True)
class Table:
    """names: of the columns; those of `words` hold words, the others figures. marked: rows that failed."""

    names: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: frozenset[str] = frozenset()
    marked: frozenset[int] = frozenset()


@dataclass(frozen=True, kw_only=True)
class Section:
    """notes: sentences. folded: the table repeats the figure, or is long, and is shown when asked for."""

    title: str
    notes: Sequence[str] = ()
    figures: Sequence[Figure] = ()
    table: Table | None = None
    folded: bool = False
    code: Sequence[str] = ()


@dataclass(frozen=True, kw_only=True)
class Tile:
    """A figure that is read first."""

    name: str
    value: str
    unit: str
    note: str


@dataclass(frozen=True, kw_only=True)
class Document:
    """title, subtitle; decision, the answer that is read first; the summary's sentences; tiles; notices as (severity, text);
    sections."""

    title: str
    subtitle: str
    decision: str | None = None
    summary: Sequence[str]
    tiles: Sequence[Tile] = ()
    notices: Sequence[tuple[str, str]] = ()
    sections: Sequence[Section] = ()
