"""A report as Markdown: the sentences and the tables."""

from __future__ import annotations

import re

from resnet_deploy.charts.markup import encodable
from resnet_deploy.reporting.document import Document, Section, Table


def markdown_page(content: Document) -> str:
    """GitHub's Markdown. Names are escaped: one with a pipe or a tag in it stays a name."""
    lines = [f"# {escape_markdown(content.title)}", "", escape_markdown(content.subtitle), ""]
    lines += [f"**{escape_markdown(content.decision)}**", ""] if content.decision else []
    lines += [f"- {escape_markdown(sentence)}" for sentence in content.summary]
    if content.notices:
        lines += ["", *(f"> **{escape_markdown(severity)}**: {escape_markdown(text)}  " for severity, text in content.notices)]
    for section in content.sections:
        lines += ["", *_section(section)]
    return "\n".join(lines) + "\n"


def escape_markdown(text: str) -> str:
    """Text that Markdown takes as text, on one line."""
    line = _entities(" ".join(encodable(str(text)).split()))
    return re.sub(r"([\\`*_{}\[\]|#~])", r"\\\1", line)


def _entities(text: str) -> str:
    """Without what begins a tag: not every reader of Markdown knows a backslash before it."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _section(section: Section) -> list[str]:
    lines = [f"## {escape_markdown(section.title)}", ""]
    for note in section.notes:
        lines += [escape_markdown(note), ""]
    if section.table is not None and section.table.rows:
        lines += [*_table(section.table), ""]
    if section.code and re.search("<[a-zA-Z/!?]", "\n".join(section.code)):
        # In a fence a tag would be text, but only to those who know fences, and it could not be escaped there.
        lines += ["<pre>", *(_entities(encodable(line)) for line in section.code), "</pre>", ""]
    elif section.code:
        ticks = max((len(run) for line in section.code for run in re.findall("`+", line)), default=0)
        fence = "`" * max(3, ticks + 1)
        lines += [fence, *(encodable(line) for line in section.code), fence, ""]
    return lines[:-1]


def _table(table: Table) -> list[str]:
    rules = ["---" if name in table.words else "---:" for name in table.names]
    names, *cells = ([escape_markdown(cell) for cell in row] for row in (table.names, *table.rows))
    return [f"| {' | '.join(row)} |" for row in (names, rules, *cells)]
