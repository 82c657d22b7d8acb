"""The manual page is current, and groff reads it without warnings."""

from __future__ import annotations

import re
import shlex
import subprocess
from importlib.util import find_spec
from pathlib import Path

import click
import pytest

from flask_socketact.cli import main

CHECKOUT = Path(__file__).parents[3]
PAGE = CHECKOUT / "docs/flask-socketact.8"
WIDTH = 80  #: of a terminal, in columns


def groff(*arguments: str, page: Path = PAGE) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["groff", "-man", *arguments, page], capture_output=True, text=True, check=True)


@pytest.fixture(scope="module")
def rendered() -> str:
    """The page as a terminal shows it, without colors and overstrikes."""
    return groff("-Tascii", "-P-cbou").stdout


def part(text: str, heading: str) -> str:
    """Return the text below a heading, up to the next one of the same or a higher level."""
    indent = len(heading) - len(heading.lstrip())
    begin = text.index(f"\n{heading}\n")
    following = re.compile(rf"^ {{0,{indent}}}\S", re.MULTILINE).search(text, begin + len(heading) + 2)
    return text[begin : following.start() if following else None]


def long_options(command: click.Command) -> set[str]:
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return {option for option in options if option.startswith("--")}


def test_groff_prints_no_warnings() -> None:
    assert groff("-Tutf8", "-ww", "-z").stderr == ""


def test_page_fits_a_terminal(rendered: str) -> None:
    assert max(map(len, rendered.splitlines())) <= WIDTH


@pytest.mark.skipif(
    not (CHECKOUT / ".venv/bin/sphinx-build").exists() or not find_spec("sphinx_click"), reason="needs the extra [docs]"
)
def test_page_is_current(rendered: str, tmp_path: Path) -> None:
    """When this fails, run script/man. Only words are compared: versions of Sphinx differ in their markup."""
    subprocess.run([CHECKOUT / "script/man", tmp_path], check=True)
    built = groff("-Tascii", "-P-cbou", page=tmp_path / PAGE.name).stdout
    assert built.split() == rendered.split()


def test_every_command_is_there_and_no_other(rendered: str) -> None:
    headings = re.findall(r"^   flask-socketact (\S+)", part(rendered, "COMMANDS"), re.MULTILINE)
    assert sorted(headings) == sorted(main.commands)


@pytest.mark.parametrize("name", sorted(main.commands))
def test_every_option_is_there_and_no_other(rendered: str, name: str) -> None:
    heading = f"   flask-socketact {name}"
    text = part(rendered, heading)
    lines = re.findall(r"^ {7}(--[a-z-]+)(?: / (--[a-z-]+))?", text, re.MULTILINE)
    assert {option for line in lines for option in line if option} == long_options(main.commands[name])
    assert set(re.findall(r"--[a-z][a-z-]*", text)) <= long_options(main.commands[name])


def test_arguments_are_called_as_in_the_help(rendered: str) -> None:
    for option in main.commands["units"].params:
        if isinstance(option, click.Option) and option.metavar:
            assert re.search(rf"^ {{7}}{re.escape(f'{option.opts[0]} {option.metavar}')}$", rendered, re.MULTILINE)


def test_examples_can_be_typed(rendered: str) -> None:
    text = part(rendered, "EXAMPLES").replace("\\\n", " ")
    examples = [shlex.split(line) for line in re.findall(r"^.*?flask-socketact (.*)", text, re.MULTILINE)]
    assert {name for name, *_ in examples} == {"deploy", "doctor", "lb", "rehearse", "status", "units"}
    for name, *arguments in examples:
        main.commands[name].make_context(name, arguments)  # reads them, and runs nothing


def test_variables_are_those_of_the_code(rendered: str) -> None:
    modules = (Path(__file__).parents[3] / "flask_socketact").rglob("*.py")
    code = set(re.findall(r'^[A-Z_]+ = "(SOCKETACT_[A-Z_]+)"', "".join(map(Path.read_text, modules)), re.MULTILINE))
    assert set(re.findall(r"SOCKETACT_[A-Z_]+", part(rendered, "ENVIRONMENT"))) == code != set()
