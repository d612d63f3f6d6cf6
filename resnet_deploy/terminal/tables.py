"""Tables as text."""

from __future__ import annotations

from typing import Any

from resnet_deploy.terminal.visible import visible


def table(rows: list[dict[str, Any]]) -> str:
    """Rows in columns. A cell is one line of characters that can be seen: a name cannot forge a row."""
    import tabulate

    tabulate.MIN_PADDING = 0  # two spaces between columns are enough
    cells = [{_cell(name): _cell(value) for name, value in row.items()} for row in rows]
    return str(tabulate.tabulate(cells, headers="keys", tablefmt="simple", disable_numparse=True, missingval="-"))


def _cell(value: Any) -> Any:
    return visible(value, lines=False) if isinstance(value, str) else value


def counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "unknown"
