"""Output of commands: with colors on a terminal, as plain text elsewhere."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

#: Width without a terminal: no line is wrapped.
_WIDE = 250


def console() -> Console:
    """Return a console for stdout."""
    made = Console(highlight=False)
    if not made.is_terminal:
        made.width = _WIDE
    return made


def table(first: str, *headings: str) -> Table:
    """Return an empty table: the first column is for words, the others for numbers."""
    made = Table(first, box=None, header_style="bold", pad_edge=False)
    for heading in headings:
        made.add_column(heading, justify="right")
    return made
