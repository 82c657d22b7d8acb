"""Exit statuses of all commands."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from flask_socketact.cli import main
from flask_socketact.cli.exit_status import Command, ExitStatus
from flask_socketact.errors import LeftBrokenError, ManagerError, NotDeployedError, OptionError


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NotDeployedError("bad"), 1),
        (OptionError("bad"), 2),
        (ManagerError("bad"), 3),
        (LeftBrokenError("bad"), 4),
        (KeyboardInterrupt(), 130),
    ],
)
def test_error_has_a_status(error: BaseException, status: int) -> None:
    @click.command(cls=Command)
    def command() -> None:
        raise error

    done = CliRunner().invoke(command)
    assert done.exit_code == status == ExitStatus(status)
    assert done.stderr == ("" if status == ExitStatus.INTERRUPTED else "Error: bad\n")


def test_all_commands_report_errors_in_the_same_way() -> None:
    assert all(isinstance(command, Command) for command in main.commands.values())
