"""Tables as text."""

from __future__ import annotations

from typing import Any


def table(rows: list[dict[str, Any]]) -> str:
    import tabulate

    tabulate.MIN_PADDING = 0  # two spaces between columns are enough
    return str(tabulate.tabulate(rows, headers="keys", tablefmt="simple", disable_numparse=True, missingval="-"))


def counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name}" for name, count in counts.items()) or "unknown"
