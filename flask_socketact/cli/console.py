"""Where commands print: with colours on a terminal, as plain text elsewhere."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

#: Without a terminal, lines are as long as they need to be.
_WIDE = 250


def console() -> Console:
    made = Console(highlight=False)
    if not made.is_terminal:
        made.width = _WIDE
    return made


def table(first: str, *headings: str) -> Table:
    """Return an empty table: words in the first column, numbers in the others."""
    made = Table(first, box=None, header_style="bold", pad_edge=False)
    for heading in headings:
        made.add_column(heading, justify="right")
    return made
