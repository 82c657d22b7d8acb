"""Output of ``list``."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from flask_socketact.cli.console import console
from flask_socketact.cli.list.overview import Overview
from flask_socketact.text import printable

_COLORS = {"active": "green", "idle": "green", "failed": "red", "stopped": ""}
_COLUMNS = ("service", "state", "addresses", "version", "what to do")


def show(found: list[Overview]) -> None:
    """Print a line for each service."""
    table = Table(*_COLUMNS, box=None, header_style="bold", pad_edge=False)
    for each in found:
        words = (each.name, each.state, ", ".join(each.addresses), each.version or "?", each.remedy)
        name, state, *others = (Text(printable(word)) for word in words)
        state.stylize(_COLORS.get(each.state, "yellow"))
        table.add_row(name, state, *others)
    console().print(table)
