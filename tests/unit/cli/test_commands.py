"""docs/commands.md matches the commands."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from flask_socketact.cli.rehearse.command import FAIL_ON
from flask_socketact.cli.rehearse.outcome import Account, judge, parse_conditions
from flask_socketact.cli.rehearse.recording import Recording
from flask_socketact.cli.status.snapshot import Overview

PAGE = (Path(__file__).parents[3] / "docs/commands.md").read_text()


@pytest.mark.parametrize(
    ("command", "keys"),
    [
        ("status", {field.name for field in fields(Overview)}),
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
