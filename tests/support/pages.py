"""The commands that pages of the documentation show, as a reader types them."""

from __future__ import annotations

import re
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
_HERE_DOCUMENT = re.compile(r"<<-?\s*'?(\w+)'?")


def text_of(page: str, heading: str = "") -> str:
    """Return the text of a page, or of its section below `heading`."""
    text = (CHECKOUT / page).read_text()
    return text.split(f"\n## {heading}\n")[1].split("\n## ")[0] if heading else text


def blocks(page: str, heading: str = "") -> list[str]:
    """Return the blocks of commands in a section of a page, or in all of it."""
    return re.findall(r"```sh\n(.*?)```", text_of(page, heading), re.DOTALL)


def commands(block: str) -> list[str]:
    r"""Return the commands of a block: a line each, or more with ``\`` at its end, or with a here-document."""
    found: list[str] = []
    lines = iter(block.splitlines())
    for line in lines:
        command = line
        while command.endswith("\\"):
            command += "\n" + next(lines)
        if end := _HERE_DOCUMENT.search(command):
            while command.splitlines()[-1] != end[1]:
                command += "\n" + next(lines)
        if command and not command.startswith("#"):
            found.append(command)
    return found
