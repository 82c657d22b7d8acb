"""``flask-socketact deploy``: deploy a release, watch its health, and roll it back if it is bad."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flask_socketact.cli.exit_status import Command, ExitStatus, describe
from flask_socketact.cli.options import Number, complete_folder, name_argument, parse_percent, user_manager_option
from flask_socketact.errors import (
    LeftBrokenError,
    ManagerError,
    NoServiceError,
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


_SECONDS = Number(1.0, 3600.0)
#: The full share, in percent.
_FULL = 100


def _parse_release(_context: click.Context, _parameter: click.Parameter, value: str | None) -> Path | None:
    if value == "":
        raise click.BadParameter("'' is not a folder: is a variable empty?")
    return None if value is None else Path(value)


def _parse_canary(_context: click.Context, _parameter: click.Parameter, value: str | None) -> int | None:
    """Return the share of a canary; None if there is to be none, as with 100%, which overrides a share before it."""
    try:
        share = None if value is None else parse_percent(value, _FULL)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None
    return None if share == _FULL else share


def _parse_pages(_context: click.Context, _parameter: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    from flask_socketact.cli.rehearse.target import check_path

    try:
        return tuple(check_path(value) for value in dict.fromkeys(values))
    except OptionError as error:
        raise click.BadParameter(str(error)) from None


@click.command(
    cls=Command,
    epilog="Exit status: 0 the release is deployed; 1 it is not, and the old release serves; 3 nothing was changed;"
    " 4 the release is not deployed, and an administrator must act.",
)
@name_argument
@user_manager_option
@click.option(
    "--release",
    metavar="DIR",
    callback=_parse_release,
    shell_complete=complete_folder,
    help="Switch the link that the service runs in to this folder.  [default: keep the release in place]",
)
@click.option("--reload", is_flag=True, help="Reload the service instead of restarting it.")
@click.option(
    "--trial/--no-trial",
    default=True,
    show_default=True,
    help="Try the release before any client sees it: start one worker next to the service, and request its pages.",
)
@click.option(
    "--page",
    "pages",
    metavar="PATH",
    multiple=True,
    default=("/",),
    show_default=True,
    callback=_parse_pages,
    help="Request this page, which must not respond with 5xx. Repeat it for more pages.",
)
@click.option(
    "--healthy",
    metavar="SECONDS",
    type=_SECONDS,
    default=5,
    show_default=True,
    help="Succeed when the release has been healthy for this long without a break.",
)
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=_SECONDS,
    default=90,
    show_default=True,
    help="Fail if the trial is not good after this time; roll back if the release is not healthy after this time.",
)
@click.option(
    "--max-errors",
    metavar="PERCENT",
    type=Number(0.0, 100.0),
    default=5,
    show_default=True,
    help="Roll back if more responses are 5xx than this, or than twice the share before the deploy, if that is higher.",
)
@click.option(
    "--canary",
    metavar="PERCENT",
    callback=_parse_canary,
    help="While the release is watched, let HAProxy send this part of its share of the requests; if it is bad, none."
    " 100% is the full share, as without the option.",
)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object.")
def deploy(name: str, *, user_manager: bool, as_json: bool, **given: Any) -> None:
    """Deploy a release, and roll it back if it is bad.

    Try the release, restart the service NAME, and watch its health. A release is bad if it does not start, is not ready
    (READY=1, and /readyz where the application has it), does not respond at a --page, or responds with too many errors.
    The old workers serve until the new ones are ready.
    """
    from flask_socketact.cli.deploy.record import Record
    from flask_socketact.cli.deploy.service import Service
    from flask_socketact.cli.deploy.steps import Deployment, state_folder

    if given["canary"] is not None and given["release"] is None:
        raise click.UsageError("--canary needs --release: there must be an old release to roll back to")
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: roll back
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # the terminal may be closed
    report = _Report(name, quiet=as_json)
    running: Deployment | None = None
    error: SocketActError | None = None
    try:
        service = Service(name, Manager(user=user_manager))
        record = Record(state_folder(user_manager=user_manager), name)
        report.about = service
        with record.locked():
            running = Deployment(service, record, _wanted(given), report)
            running.run()
    except NoServiceError as why:
        error = NoServiceError(describe(why, user_manager=user_manager))
    except SocketActError as why:
        error = why
    except KeyboardInterrupt:
        error = NotBegunError("interrupted before anything was changed")
        if running is not None and running.has_begun:
            error = LeftBrokenError("interrupted while rolling back: deploy again to finish it")
    report.end(error, is_reported=isinstance(error, NotDeployedError))
    sys.exit(ExitStatus.of(error) if error else ExitStatus.DONE)


def _wanted(given: dict[str, Any]) -> Wanted:
    from flask_socketact.cli.deploy.health_watch import FEWEST_RESPONSES, Health
    from flask_socketact.cli.deploy.service import RELOAD, RESTART
    from flask_socketact.cli.deploy.steps import Wanted

    fewest = 0 if given["canary"] is None else FEWEST_RESPONSES
    health = Health(given["pages"], given["healthy"], given["max_errors"] / 100, fewest)
    verb = RELOAD if given["reload"] else RESTART
    return Wanted(
        given["release"], verb, health, max(given["timeout"], given["healthy"]), given["trial"], given["canary"]
    )


class _Report:
    """Prints the steps of a deploy, and writes them to the journal of the service."""

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
        """Print the reason at once: rolling back may take a while."""
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

    def end(self, error: Exception | None, *, is_reported: bool) -> None:
        """Print how the deploy ended.

        :param is_reported: whether `error` has been printed
        """
        if self._quiet:
            result = {"service": self._name, "deployed": error is None, "error": str(error or ""), "steps": self._steps}
            for line in json.dumps(result, indent=2).splitlines():
                _say(line)
        elif error is not None and not is_reported:
            self._say_error(str(error))

    def _say_error(self, text: str) -> None:
        if not self._quiet:
            _say(f"Error: {text}", to_stderr=True)


def _say(text: str, *, to_stderr: bool = False) -> None:
    """Print a line. If the terminal or the pipe is closed, print nothing: the journal has it.

    All output of the command passes through here. The service's user controls parts of it (file names, status lines,
    log records): their control characters must not reach root's terminal.
    """
    stream = sys.stderr if to_stderr else sys.stdout
    encoding = stream.encoding or "ascii"  # it may not have all characters
    try:
        click.secho(
            printable(text).encode(encoding, "replace").decode(encoding), fg="red" if to_stderr else None, err=to_stderr
        )
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        os.dup2(nowhere, stream.fileno())  # or Python would flush again when it exits, with status 120
        os.close(nowhere)
