"""Where commands print: with colours on a terminal, as plain text elsewhere."""

from __future__ import annotations

from rich.console import Console

#: Without a terminal, lines are as long as they need to be.
_WIDE = 250


def console() -> Console:
    made = Console(highlight=False)
    if not made.is_terminal:
        made.width = _WIDE
    return made
