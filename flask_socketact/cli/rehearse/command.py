"""``flask-socketact rehearse``: restart a service under load, and report what clients see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flask_socketact.cli.exit_status import Command, ExitStatus, fail
from flask_socketact.cli.options import Count, Number
from flask_socketact.cli.rehearse.values import Destination, open_destination, read_conditions, split_words
from flask_socketact.errors import OptionError, RehearsalError, ReportError
from flask_socketact.text import printable

if TYPE_CHECKING:
    from flask_socketact.cli.rehearse.outcome import Condition, Verdict
    from flask_socketact.cli.rehearse.recording import Recording
    from flask_socketact.cli.rehearse.run import Plan
    from flask_socketact.cli.rehearse.target import Target

_NUMBER = Count(0, 50_000)
_SECONDS = Number(0.0, 3600.0)
#: Lower limit: clients need time to start and to finish a request.
_EVERY = Number(0.5, 3600.0)
FAIL_ON = "failed>0,closed>0,wait>0.5,failed-restarts>0"


@click.command(
    cls=Command,
    epilog="Exit status: 0 the promise was kept; 1 it was broken; 3 nothing was restarted, or the report was"
    " not written; 130 Ctrl-C.",
)
@click.option(
    "--url", metavar="URL", default="http://127.0.0.1:8000/", show_default=True, help="Send requests to this URL."
)
@click.option("--unix-socket", metavar="PATH", help="Connect to this Unix socket instead of the host in the URL.")
@click.option(
    "--do",
    "command",
    metavar="COMMAND",
    callback=split_words,
    help="Restart the service by this command.  [default: systemctl restart, of the service that listens at the URL]",
)
@click.option(
    "--restarts", metavar="N", type=_NUMBER, default=5, show_default=True, help="Restart the service N times."
)
@click.option(
    "--every",
    metavar="SECONDS",
    type=_EVERY,
    default=5,
    show_default=True,
    help="Send requests for this long before, between and after restarts.",
)
@click.option(
    "--clients",
    metavar="N",
    type=_NUMBER,
    default=4,
    show_default=True,
    help="Run N clients that open a new connection for each request.",
)
@click.option(
    "--keep-alive",
    metavar="N",
    type=_NUMBER,
    default=4,
    show_default=True,
    help="Run N clients that send one request after the other on one connection.",
)
@click.option(
    "--idle",
    metavar="N",
    type=_NUMBER,
    default=8,
    show_default=True,
    help="Run N clients whose connection is mostly idle.",
)
@click.option(
    "--silent",
    metavar="N",
    type=_NUMBER,
    default=2,
    show_default=True,
    help="Run N clients that connect and send nothing for 2 s.",
)
@click.option(
    "--slow",
    metavar="N",
    type=_NUMBER,
    default=2,
    show_default=True,
    help="Run N clients that take 2 s to send a request; and N for --upload-path.",
)
@click.option(
    "--long",
    "long_",
    metavar="N",
    type=_NUMBER,
    default=2,
    show_default=True,
    help="Run N clients that request --long-path.",
)
@click.option("--long-path", metavar="PATH", help="Request this page, which takes some seconds.  [default: none]")
@click.option("--upload-path", metavar="PATH", help="Send 100,000 bytes to this page by POST.  [default: none]")
@click.option(
    "--think",
    metavar="SECONDS",
    type=_SECONDS,
    default=0.1,
    show_default=True,
    help="Pause for this long between requests, on average.",
)
@click.option(
    "--idle-think",
    metavar="SECONDS",
    type=_SECONDS,
    default=5,
    show_default=True,
    help="Pause for this long in idle clients, on average.",
)
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=_EVERY,
    default=60,
    show_default=True,
    help="Count a request as failed after this time.",
)
@click.option(
    "--fail-on",
    metavar="CONDITIONS",
    callback=read_conditions,
    default=FAIL_ON,
    show_default=True,
    help="Set what breaks the promise: failed, closed, wait, p99 (seconds) or failed-restarts, > or >=, and a number.",
)
@click.option(
    "--report",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=open_destination,
    help="Write an HTML report with every request.",
)
@click.option("--title", metavar="TEXT", help="Give the run this title in the report.  [default: the URL]")
@click.option(
    "--compare",
    metavar="FILE",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Show an earlier report next to this run.",
)
@click.option("--allow-remote", is_flag=True, help="Allow a URL of another machine, which must be yours.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object, and no progress.")
@click.pass_context
def rehearse(
    context: click.Context, /, *, report: Destination | None, compare: Path | None, as_json: bool, **given: Any
) -> None:
    """Restart a service under load, and report what clients see.

    Clients of the kinds that restarts usually break send requests to --url. For each kind, count failed requests and
    closed connections, and measure the longest wait: the time beyond what half of its requests took before the first
    restart. No request is sent twice. The load and the restarts are real. Ctrl-C ends the rehearsal early.
    """
    if compare is not None and report is None:
        raise click.UsageError("--compare shows an earlier report in a new one: add --report FILE")
    from flask_socketact.cli.rehearse.report import read

    fail_on, title = given.pop("fail_on"), given.pop("title")
    runs = [read(compare)] if compare else []
    plan = _plan(**given)
    recording, verdict = _run(plan, fail_on, as_json=as_json)
    status = ExitStatus.DONE if verdict.is_kept else ExitStatus.BROKEN
    if report is not None:
        try:
            _write(report, [*runs, _describe(title, plan, recording, verdict)], quiet=as_json)
        except ReportError as error:  # the JSON object has been printed
            fail(context, error, status or ExitStatus.NOTHING_DONE)
    context.exit(ExitStatus.INTERRUPTED if recording.is_interrupted else status)


def _run(plan: Plan, fail_on: list[Condition], *, as_json: bool) -> tuple[Recording, Verdict]:
    """Rehearse, and print progress and results."""
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
    """Return the plan that the options describe.

    :raises OptionError: there are no clients, or a path is malformed.
    :raises RehearsalError: the name of the host is unknown, or no command restarts the service.
    """
    from flask_socketact.cli.rehearse import service, target
    from flask_socketact.cli.rehearse.clients import Pace
    from flask_socketact.cli.rehearse.run import Plan

    where = target.parse(url, unix_socket=unix_socket, allow_remote=allow_remote)
    groups = _groups(where, given)
    if not groups:
        raise OptionError("there are no clients: set --clients or another option to more than 0")
    found = service.find(where.places)
    if command is None and found is None and given["restarts"]:
        raise RehearsalError(
            f"no socket unit listens at {where.place}: set the command that restarts the service, "
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
