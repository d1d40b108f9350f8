"""Tables in Markdown."""

from collections.abc import Callable
from typing import Any


def markdown(columns: dict[str, Callable[[Any], str]], rows: list) -> str:
    """Lay out a table: what each column shows of each row."""
    head = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    body = ["| " + " | ".join(show(row) for show in columns.values()) + " |" for row in rows]
    return "\n".join(head + body)


def number(value: float | None, digits: int = 2) -> str:
    """Write a number, or a dash where there is none."""
    return "-" if value is None else f"{value:,.{digits}f}"
