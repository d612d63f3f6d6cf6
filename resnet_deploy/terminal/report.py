"""Reports and comparisons, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from resnet_deploy.terminal.tables import table

if TYPE_CHECKING:
    from resnet_deploy.reporting.compare import RunComparison
    from resnet_deploy.reporting.document import Document


def report_text(report: dict[str, Any], written: str | None) -> str:
    from resnet_deploy.reporting.content import document

    titles = {"Preprocessing", "All results", "MLPerf scenarios", "Not measured", "To get it again"}
    return _document(document(report), titles, written)


def comparison_text(compared: RunComparison, written: str | None) -> str:
    from resnet_deploy.reporting.differences import comparison_document

    content = comparison_document(compared)
    return _document(content, {section.title for section in content.sections}, written)


def _document(content: Document, titles: set[str], written: str | None) -> str:
    """The headline, and the sections of these titles, without charts."""
    from resnet_deploy.charts.markup import encodable

    answer = [content.decision] if content.decision else []
    notices = [f"{severity}: {text}" for severity, text in content.notices]
    parts = ["\n".join([content.title, *answer, *content.summary, *notices])]
    for section in content.sections:
        if section.title in titles:
            lines = [section.title, *section.notes, ""]
            if section.table is not None:
                lines.append(table([dict(zip(section.table.names, row, strict=True)) for row in section.table.rows]))
            parts.append("\n".join([*lines, *section.code]))
    return encodable("\n\n".join([*parts, *([f"written to {written}"] if written else [])]))
