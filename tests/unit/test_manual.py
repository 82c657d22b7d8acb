"""The manual page: groff can read it, and it says what the command has."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import click

from flask_socketact.cli import main

PAGE = Path(__file__).parents[2] / "docs/flask-socketact.8"
WIDTH = 80  #: of a terminal, in columns


def test_groff_has_nothing_to_say() -> None:
    done = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z", PAGE], capture_output=True, text=True, check=True)
    assert done.stderr == ""


def test_page_fits_a_terminal() -> None:
    done = subprocess.run(["groff", "-man", "-Tascii", "-P-cbou", PAGE], capture_output=True, text=True, check=True)
    assert max(map(len, done.stdout.splitlines())) <= WIDTH
    assert "OPERATIONS" in done.stdout


def test_every_command_and_option_is_there_and_no_other() -> None:
    text = PAGE.read_text().replace("\\-", "-")
    assert isinstance(main, click.Group)
    options = {"--help"}
    for name, command in main.commands.items():
        assert re.search(rf'^\.BR {name} "', text, re.MULTILINE), name
        options |= {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
    body = text[text.index(".SH COMMANDS") : text.index(".SH OPERATIONS")]
    assert set(re.findall(r"--[a-z][a-z-]*", body)) == options
