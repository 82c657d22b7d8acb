"""docs/commands.md matches the commands."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from flask_socketact.cli import main
from flask_socketact.cli.doctor.command import as_object
from flask_socketact.cli.doctor.finding import ok
from flask_socketact.cli.exit_status import ExitStatus
from flask_socketact.cli.lb.state import Share
from flask_socketact.cli.list.overview import Overview as Service
from flask_socketact.cli.options import Count, Number, Seconds
from flask_socketact.cli.rehearse.command import FAIL_ON
from flask_socketact.cli.rehearse.outcome import Account, judge, parse_conditions
from flask_socketact.cli.rehearse.recording import Recording
from flask_socketact.cli.status.snapshot import Overview

PAGE = (Path(__file__).parents[3] / "docs/commands.md").read_text()


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        ("status", {field.name for field in (*fields(Overview), *fields(Share))}),
        ("list", {field.name for field in fields(Service)}),
        ("doctor", {*as_object("", ok(""))}),
        (
            "rehearse",
            {*judge(Recording([]), parse_conditions(FAIL_ON)).as_object(), *(field.name for field in fields(Account))},
        ),
    ],
)
def test_keys_of_json_objects_are_documented(command: str, keys: set[str]) -> None:
    row = re.search(rf"^\| `{command}` \| (.*) \|$", PAGE, re.MULTILINE)
    assert row
    assert set(re.findall(r"`(\w+)`", row[1])) - {"all"} == keys


def test_page_explains_every_exit_status() -> None:
    table = PAGE.split("\n## Exit statuses\n")[1].split("\n## ")[0]
    assert [int(row) for row in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)] == [
        status.value for status in ExitStatus
    ]


def test_list_of_commands_is_whole_in_a_narrow_terminal() -> None:
    text = " ".join(CliRunner().invoke(main, ["--help"], terminal_width=40).stdout.split())
    for command in main.commands.values():
        assert (command.help or "").partition("\n")[0] in text
    assert "..." not in text.partition("Commands:")[2]


@pytest.mark.parametrize("name", sorted(main.commands))
def test_help_has_sentences(name: str) -> None:
    """Options end with a full stop before their default, and ranges are words."""
    command = main.commands[name]
    text = command.get_help(click.Context(command, info_name=name))
    texts = [each.help or "" for each in command.params if isinstance(each, click.Option)]
    assert [each for each in texts if not re.search(r"\.($|  \[default: )", each)] == []
    assert "<=" not in text


@pytest.mark.parametrize(
    ("type_", "words"),
    [
        (Count(1, 1_000_000), "1 to 1,000,000"),
        (Count(252), "252 or more"),
        (Number(0.5, 3600.0), "0.5 to 3,600"),
        (Seconds(60), "1 to 60"),
    ],
)
def test_ranges_are_words(type_: click.ParamType[object], words: str) -> None:
    @click.command
    @click.option("--some", type=type_)
    def command(some: float) -> None:
        raise AssertionError(some)

    assert f"[{words}]" in CliRunner().invoke(command, ["--help"]).stdout
    done = CliRunner().invoke(command, ["--some", "0"])
    assert (done.exit_code, f"is not in the range {words}." in done.stderr) == (2, True)


@pytest.mark.parametrize("value", ["", "x", "nan", "1,5", "5s"])
def test_what_is_not_a_number(value: str) -> None:
    for type_ in (Count(0, 5), Number(0.0, 5.0), Seconds(5)):
        with pytest.raises(click.BadParameter, match=r"is not a (whole )?number"):
            type_.convert(value, None, None)
