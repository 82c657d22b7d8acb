"""Output of commands: with colors on a terminal, as plain text elsewhere; and the command as it can be typed."""

from __future__ import annotations

import os
import shutil
import sys

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


def as_typed() -> str:
    """Return how this command can be typed: by its name only if it is on PATH."""
    program = os.path.abspath(sys.argv[0])
    if os.path.basename(program) != "flask-socketact":  # python -m, or flask socketact
        return f"{sys.executable} -m flask_socketact.cli"
    return "flask-socketact" if shutil.which("flask-socketact") == program else program
