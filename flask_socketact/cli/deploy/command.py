"""``flask-socketact deploy``: a release put in place, watched, and taken back if it is bad."""

from __future__ import annotations

import json
import math
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flask_socketact.cli.exit_status import Command, ExitStatus
from flask_socketact.cli.options import name_argument, user_manager_option
from flask_socketact.errors import (
    LeftBrokenError,
    ManagerError,
    NotBegunError,
    NotDeployedError,
    OptionError,
    SocketActError,
)
from flask_socketact.systemd.manager import Manager
from flask_socketact.text import printable

if TYPE_CHECKING:
    from flask_socketact.cli.deploy.service import Service
    from flask_socketact.cli.deploy.steps import Wanted


class _Number(click.FloatRange):
    """A range that "nan", which is neither below nor above it, is not in."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        number = float(super().convert(value, parameter, context))
        if math.isnan(number):
            self.fail(f"{value!r} is not a number.", parameter, context)
        return number


_SECONDS = _Number(1.0, 3600.0)


def _folder(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Path | None:
    if value == "":
        raise click.BadParameter("'' is no folder: is a variable empty?")
    return None if value is None else Path(value)


def _is_page(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    from flask_socketact.cli.rehearse.target import check_path

    try:
        return check_path(value)
    except OptionError as error:
        raise click.BadParameter(str(error)) from None


@click.command(cls=Command)
@name_argument
@user_manager_option
@click.option(
    "--release",
    metavar="DIR",
    callback=_folder,
    help="The new release: the link that the service runs in is switched to it.  [default: what is in place]",
)
@click.option("--reload", is_flag=True, help="Reload, and not restart.")
@click.option("--page", default="/", show_default=True, callback=_is_page, help="Must not be answered with 5xx.")
@click.option(
    "--healthy", metavar="SECONDS", type=_SECONDS, default=5.0, show_default=True, help="For so long all must be well."
)
@click.option(
    "--timeout", metavar="SECONDS", type=_SECONDS, default=90.0, show_default=True, help="Until it has been, at most."
)
@click.option(
    "--max-errors",
    metavar="PERCENT",
    type=_Number(0.0, 100.0),
    default=5.0,
    show_default=True,
    help="Of its answers may be 5xx; or twice as many as before.",
)
@click.option("--json", "as_json", is_flag=True, help="Print an object.")
def deploy(name: str, *, user_manager: bool, as_json: bool, **given: Any) -> None:
    """Deploy a release of the service NAME, and put the old one back if it is bad.

    A release is bad if it does not boot, is not ready (READY=1, and /readyz if the application has it), does not answer
    --page, or answers with too many errors. Meanwhile the old workers serve. Exit status: 0 deployed, 1 not deployed,
    and the old release serves, 2 wrong usage, 3 nothing was done, 4 not deployed, and somebody must look.
    """
    from flask_socketact.cli.deploy.in_progress import Record
    from flask_socketact.cli.deploy.service import Service
    from flask_socketact.cli.deploy.steps import Deployment, state_folder

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the old release is put back
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # who has begun it may go away
    told = _Told(name, quiet=as_json)
    running: Deployment | None = None
    error: SocketActError | None = None
    try:
        service = Service(name, Manager(user=user_manager))
        record = Record(state_folder(user_manager=user_manager), name)
        told.about = service
        with record.locked():
            running = Deployment(service, record, _wanted(given), told)
            running.run()
    except SocketActError as why:
        error = why
    except KeyboardInterrupt:
        error = NotBegunError("interrupted before anything was changed")
        if running is not None and running.has_begun:
            error = LeftBrokenError("interrupted while the old release was put back: deploy again, which ends that")
    told.end(error, is_told=isinstance(error, NotDeployedError))
    sys.exit(ExitStatus.of(error) if error else ExitStatus.DONE)


def _wanted(given: dict[str, Any]) -> Wanted:
    from flask_socketact.cli.deploy.health_watch import Health
    from flask_socketact.cli.deploy.service import RELOAD, RESTART
    from flask_socketact.cli.deploy.steps import Wanted

    health = Health(given["page"], given["healthy"], given["max_errors"] / 100)
    return Wanted(
        given["release"], RELOAD if given["reload"] else RESTART, health, max(given["timeout"], given["healthy"])
    )


class _Told:
    """Tells steps, to who looks on and to the journal of the service."""

    def __init__(self, name: str, *, quiet: bool) -> None:
        self.about: Service | None = None
        self._name = name
        self._quiet = quiet
        self._steps: list[str] = []

    def __call__(self, step: str) -> None:
        if not self._quiet:
            _say(step)
        self._note(step)

    def failure(self, reason: str) -> None:
        """Say why the release is not deployed, at once: it may take a while until the one before it serves again."""
        self._say_error(f"not deployed: {reason}")
        self._note(f"Not deployed: {reason}")

    def _note(self, step: str) -> None:
        self._steps.append(step)
        if self.about is not None:
            from flask_socketact.cli import unit_journal

            pid = 0
            with suppress(ManagerError):
                pid = self.about.main_pid
            unit_journal.write(printable(step), pid)

    def end(self, error: Exception | None, *, is_told: bool) -> None:
        """Tell how it has ended; `is_told`: what the error says has been said."""
        if self._quiet:
            result = {"service": self._name, "deployed": error is None, "error": str(error or ""), "steps": self._steps}
            for line in json.dumps(result, indent=2).splitlines():
                _say(line)
        elif error is not None and not is_told:
            self._say_error(str(error))

    def _say_error(self, text: str) -> None:
        if not self._quiet:
            _say(f"Error: {text}", to_stderr=True)


def _say(text: str, *, to_stderr: bool = False) -> None:
    """Print a line. When the terminal or the reader of the pipe has gone, print nothing: the journal has it.

    Everything that the command prints passes here. The service's user chooses parts of it: file names, status lines,
    log records. Control characters in them do not reach the terminal of root.
    """
    stream = sys.stderr if to_stderr else sys.stdout
    encoding = stream.encoding or "ascii"  # of a terminal that has fewer characters, perhaps
    try:
        click.secho(
            printable(text).encode(encoding, "replace").decode(encoding), fg="red" if to_stderr else None, err=to_stderr
        )
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(nowhere, stream.fileno())  # or Python would try again at its end, and exit with 120
        os.close(nowhere)
