"""``flask-socketact rehearse``: restarts of the user's own service, under load, and what clients see of them."""

from __future__ import annotations

import json
import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flask_socketact import files
from flask_socketact.cli.exit_status import Command, ExitStatus, fail
from flask_socketact.errors import OptionError, RehearsalError, ReportError, UnsafePathError
from flask_socketact.text import printable

if TYPE_CHECKING:
    from flask_socketact.cli.rehearse.outcome import Condition, Verdict
    from flask_socketact.cli.rehearse.recording import Recording
    from flask_socketact.cli.rehearse.run import Plan
    from flask_socketact.cli.rehearse.target import Target

_NUMBER = click.IntRange(0, 50_000)
_SECONDS = click.FloatRange(0.0, 3600.0)
#: Clients that start, and an answer that ends, need some time.
_EVERY = click.FloatRange(0.5, 3600.0)
FAIL_ON = "failed>0,closed>0,wait>0.5,failed-restarts>0"


@dataclass(frozen=True)
class Destination:
    """Where the report goes."""

    folder: files.Folder
    path: Path


def _words(_context: click.Context, parameter: click.Parameter, value: str | None) -> list[str] | None:
    """Read a command line, which is run without a shell."""
    try:
        words = None if value is None else shlex.split(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is no command: {error}", param=parameter) from None
    if words == []:
        raise click.BadParameter("there is no command", param=parameter)
    return words


def _conditions(_context: click.Context, parameter: click.Parameter, value: str) -> list[Condition]:
    from flask_socketact.cli.rehearse.outcome import parse_conditions

    try:
        return parse_conditions(value)
    except OptionError as error:
        raise click.BadParameter(str(error), param=parameter) from None


def _destination(context: click.Context, _parameter: click.Parameter, value: Path | None) -> Destination | None:
    """Open the folder before anything is restarted: afterwards its owner may have put another in its place."""
    if value is None:
        return None
    try:
        folder = context.with_resource(files.Folder(value.parent))
    except UnsafePathError as error:
        raise click.BadParameter(f"{value.parent} is not safe for root to write to: {error.strerror}") from None
    except OSError as error:
        raise click.BadParameter(f"{value.parent} is no folder that you can write to: {error.strerror}") from None
    if not os.access(".", os.W_OK, dir_fd=folder.descriptor):
        raise click.BadParameter(f"{value.parent} is no folder that you can write to")
    return Destination(folder, value)


@click.command(cls=Command)
@click.option("--url", default="http://127.0.0.1:8000/", show_default=True, help="What is asked for.")
@click.option("--unix-socket", metavar="PATH", help="Connect to this listener, whatever the URL's host.")
@click.option(
    "--do", "command", callback=_words, help="Restarts it.  [default: systemctl restart, of what listens there]"
)
@click.option("--restarts", metavar="N", type=_NUMBER, default=5, show_default=True, help="How many.")
@click.option("--every", metavar="SECONDS", type=_EVERY, default=5.0, show_default=True, help="Load between them.")
@click.option("--clients", metavar="N", type=_NUMBER, default=4, show_default=True, help="With a connection a request.")
@click.option("--keep-alive", metavar="N", type=_NUMBER, default=4, show_default=True, help="Busy on a connection.")
@click.option("--idle", metavar="N", type=_NUMBER, default=8, show_default=True, help="With a connection mostly idle.")
@click.option(
    "--silent", metavar="N", type=_NUMBER, default=2, show_default=True, help="Connected, and silent for a time."
)
@click.option(
    "--slow", metavar="N", type=_NUMBER, default=2, show_default=True, help="Sending slowly: requests, uploads."
)
@click.option(
    "--long", "long_", metavar="N", type=_NUMBER, default=2, show_default=True, help="Asking for --long-path."
)
@click.option("--long-path", metavar="PATH", help="A page that takes some seconds.  [default: none is asked for]")
@click.option("--upload-path", metavar="PATH", help="What takes an upload by POST.  [default: nothing is uploaded]")
@click.option("--think", metavar="SECONDS", type=_SECONDS, default=0.1, show_default=True, help="Between requests.")
@click.option(
    "--idle-think", metavar="SECONDS", type=_SECONDS, default=5.0, show_default=True, help="The same, of idle ones."
)
@click.option("--timeout", metavar="SECONDS", type=_EVERY, default=60.0, show_default=True, help="For an answer.")
@click.option("--fail-on", callback=_conditions, default=FAIL_ON, show_default=True, help="What breaks the promise.")
@click.option(
    "--report",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=_destination,
    help="Write an HTML report.",
)
@click.option("--title", help="Of the report.  [default: the URL]")
@click.option(
    "--compare",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="An earlier report, drawn beside this run.",
)
@click.option("--allow-remote", is_flag=True, help="Ask another machine, too. It must be yours.")
@click.option("--json", "as_json", is_flag=True, help="Print an object, and no progress.")
@click.pass_context
def rehearse(
    context: click.Context, /, *, report: Destination | None, compare: Path | None, as_json: bool, **given: Any
) -> None:
    """Restart a service again and again under load, and tell what each kind of client saw.

    The load is real: requests go to the service that answers at --url. It ends by itself; Ctrl-C ends it early.
    Exit status: 0 the promise was kept, 1 it was broken, 2 wrong usage, 3 nothing was rehearsed, 130 Ctrl-C.
    """
    if compare is not None and report is None:
        raise click.UsageError("--compare is drawn in a report: give --report FILE, too")
    from flask_socketact.cli.rehearse.report import read

    fail_on, title = given.pop("fail_on"), given.pop("title")
    runs = [read(compare)] if compare else []
    plan = _plan(**given)
    recording, verdict = _run(plan, fail_on, as_json=as_json)
    if report is not None:
        try:
            _write(report, [*runs, _describe(title, plan, recording, verdict)], quiet=as_json)
        except ReportError as error:  # the object has been printed
            fail(context, error)
    status = ExitStatus.DONE if verdict.is_kept else ExitStatus.BROKEN
    context.exit(ExitStatus.INTERRUPTED if recording.is_interrupted else status)


def _run(plan: Plan, fail_on: list[Condition], *, as_json: bool) -> tuple[Recording, Verdict]:
    """Rehearse, show how it goes, and what came of it."""
    from flask_socketact.cli.rehearse import output
    from flask_socketact.cli.rehearse.outcome import judge
    from flask_socketact.cli.rehearse.run import rehearse as run

    with output.progress(plan, quiet=as_json) as progress:
        recording = run(plan, progress)
    verdict = judge(recording, fail_on)
    if as_json:
        click.echo(json.dumps(verdict.as_object(), indent=2))
    else:
        output.show(recording, verdict)
    return recording, verdict


def _describe(title: str | None, plan: Plan, recording: Recording, verdict: Verdict) -> dict[str, Any]:
    from flask_socketact.cli.rehearse.report import describe

    return describe(title or plan.groups[0].target.url, plan, recording, verdict)


def _write(report: Destination, runs: list[dict[str, Any]], *, quiet: bool) -> None:
    from flask_socketact.cli.rehearse.report import render

    try:
        report.folder.write(report.path.name, render(runs))
    except OSError as error:
        raise ReportError(f"{report.path} cannot be written: {error.strerror}") from None
    if not quiet:
        click.echo(printable(f"Report: {report.path}"))


def _plan(*, url: str, unix_socket: str | None, allow_remote: bool, command: list[str] | None, **given: Any) -> Plan:
    """Return what the options come to.

    :raises OptionError: there are no clients, or a page is no path.
    :raises RehearsalError: nothing can be rehearsed.
    """
    from flask_socketact.cli.rehearse import service, target
    from flask_socketact.cli.rehearse.clients import Pace
    from flask_socketact.cli.rehearse.run import Plan

    where = target.parse(url, unix_socket=unix_socket, allow_remote=allow_remote)
    groups = _groups(where, given)
    if not groups:
        raise OptionError("without clients nobody sees anything: give --clients or others a number")
    found = service.find(where.places)
    if command is None and found is None and given["restarts"]:
        raise RehearsalError(
            f"no socket unit listens at {where.place}: say what restarts the service, "
            f"as in --do 'systemctl restart app'"
        )
    return Plan(
        groups,
        command or (found.restart_command() if found else []),
        found,
        given["restarts"],
        given["every"],
        Pace(think=given["think"], idle=given["idle_think"], timeout=given["timeout"]),
    )


def _groups(where: Target, given: dict[str, Any]) -> list[Any]:
    from flask_socketact.cli.rehearse import clients

    wanted = [
        (clients.NEW, given["clients"], where),
        (clients.KEEP_ALIVE, given["keep_alive"], where),
        (clients.IDLE, given["idle"], where),
        (clients.SILENT, given["silent"], where),
        (clients.SLOW, given["slow"], where),
    ]
    if given["upload_path"]:
        wanted.append((clients.UPLOADING, given["slow"], where.at(given["upload_path"])))
    if given["long_path"]:
        wanted.append((clients.LONG, given["long_"], where.at(given["long_path"])))
    return [clients.Group(kind, number, target) for kind, number, target in wanted if number]
