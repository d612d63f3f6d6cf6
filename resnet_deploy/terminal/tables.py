"""Tables as text."""

from __future__ import annotations

from typing import Any

from resnet_deploy.terminal.visible import visible


def table(rows: list[dict[str, Any]]) -> str:
    """Rows in columns. A cell is one line of characters that can be seen: a name cannot forge a row."""
    from tabulate import SEPARATING_LINE, DataRow, Line, TableFormat, tabulate

    columns, rule = DataRow("", "  ", ""), Line("", "-", "  ", "")
    plain = TableFormat(None, rule, None, None, columns, columns, 0, None)
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[_cell(row.get(name)) for name in names] for row in rows]
    # As a row among others, the names of the columns get no more room than they need.
    lines = [[_cell(name) for name in names], SEPARATING_LINE, *cells]
    return str(tabulate(lines, tablefmt=plain, disable_numparse=True, missingval="-"))


def _cell(value: Any) -> Any:
    return visible(value, lines=False) if isinstance(value, str) else value


def counts_text(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "unknown"
