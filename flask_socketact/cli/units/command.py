"""``flask-socketact units``: the systemd units of an application."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from flask_socketact.cli.exit_status import Command
from flask_socketact.cli.options import Count, Seconds, parse_name
from flask_socketact.cli.units import recorded, removal, report
from flask_socketact.cli.units.existing import read
from flask_socketact.cli.units.install import install as install_units
from flask_socketact.cli.units.install import running_systemd, write_out
from flask_socketact.cli.units.render import OLDEST_SYSTEMD, application, render
from flask_socketact.systemd.manager import Manager

if TYPE_CHECKING:
    from flask_socketact.cli.units.render import Application
    from flask_socketact.cli.units.takeover import Takeover

#: Greater numbers are typing errors; the limits of systemd and gunicorn are higher.
_MOST = 1_000_000
_COUNT = Count(1, _MOST)
_SECONDS = Seconds(_MOST)


@click.command(
    cls=Command,
    epilog="Exit status: 0 done; 2 wrong usage; 3 nothing was changed; 4 the units are written or removed in part, or "
    "systemd did not load them.",
)
@click.option(
    "--again",
    metavar="NAME",
    help="Install the units of this service again, with the options as before. Those that you type replace them; "
    "--write and --env-file add to them.",
)
@click.option(
    "--from",
    "source",
    metavar="NAME",
    help="Take over this service, whose units were written by hand: with the same application, settings and rights.",
)
@click.option("--remove", metavar="NAME", help="Stop this service, and remove its units.")
@click.option("--app", metavar="MODULE:OBJECT", default="app:app", show_default=True, help="Application to serve.")
@click.option("--name", metavar="NAME", default="app", show_default=True, help="Name of the service.")
@click.option("--user", metavar="USER", help="User that runs the workers.  [default: NAME]")
@click.option("--group", metavar="GROUP", help="Group of the workers.  [default: USER's]")
@click.option("--directory", metavar="DIR", help="Folder of the application.  [default: /srv/NAME]")
@click.option("--python", metavar="PATH", help="Python with gunicorn.  [default: the one that runs this command]")
@click.option(
    "--config",
    metavar="FILE",
    help="Configuration file of gunicorn, whose settings override ours.  [default: flask_socketact.conf or "
    "gunicorn.conf.py in DIR, if there is one]",
)
@click.option(
    "--env-file", "env_files", metavar="PATH", multiple=True, help="File with environment variables. Can be repeated."
)
@click.option(
    "--write",
    metavar="PATH",
    multiple=True,
    help="Folder or file that the application may write, besides /var/lib/NAME and /tmp. Can be repeated.",
)
@click.option(
    "--listen",
    metavar="ADDRESS[=NAME]",
    multiple=True,
    default=["127.0.0.1:8000"],
    show_default=True,
    help="HOST:PORT, [IPV6]:PORT, PORT or /PATH, and a name for the listener (default: http). Can be repeated.",
)
@click.option(
    "--socket-group",
    metavar="GROUP",
    help="Group that may connect to a /PATH, such as www-data for nginx.  [default: that of --group]",
)
@click.option(
    "--agent",
    metavar="ADDRESS",
    help="HOST:PORT where HAProxy's agent-check asks for the state that the command lb sets.",
)
@click.option("--workers", metavar="N", type=_COUNT, help="Number of workers.")
@click.option("--threads", metavar="N", type=_COUNT, help="Requests at a time in each worker.")
@click.option(
    "--drain",
    metavar="SECONDS",
    type=_SECONDS,
    help="Drain time: how long requests may take to finish.  [default: graceful_timeout, or 30]",
)
@click.option(
    "--overlap/--no-overlap",
    default=True,
    help="Start new workers next to the old ones; or stop the old ones first: clients wait.  [default: --overlap]",
)
@click.option(
    "--metrics/--no-metrics", default=False, help="Share counters between workers, for SOCKETACT_METRICS, or do not."
)
@click.option(
    "--idle-exit", metavar="SECONDS", type=_SECONDS, help="Stop the service after this time without a connection."
)
@click.option(
    "--systemd-version",
    metavar="N",
    type=Count(OLDEST_SYSTEMD),
    help="Version of systemd that the units are for.  [default: the running one]",
)
@click.option(
    "--output",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Write the units and the relay into this folder.",
)
@click.option("--install", is_flag=True, help="Install the units and the relay, and reload systemd.")
@click.option("--user-manager", is_flag=True, help="Use your own service manager, not the system's.")
@click.pass_context
def units(
    context: click.Context,
    /,
    again: str | None,
    source: str | None,
    remove: str | None,
    output: Path | None,
    **given: Any,
) -> None:
    """Print, write, install or remove the systemd units of an application.

    By default the units are printed. Only --remove stops a service, and units that this command did not make are not
    overwritten.
    """
    install = given.pop("install")
    _check_actions(again=again, remove=remove, install=install, output=output)
    _check_actions(again=again, remove=remove, **{"from": source})
    if remove is not None:
        report.removed(removal.remove(_parse(remove), user_manager=given["user_manager"]))
        return
    if again is not None:
        given = _given_again(context, _parse(again))
        install = output is None
    move = None if source is None else _take_over(context, _parse(source), given)
    wanted = _application(context, given)
    texts = render(wanted)
    if move is not None:
        texts |= move.drop_in(wanted)
        report.remarks(move)
    if install and move is not None:
        report.taken_over(wanted, install_units(wanted, texts, move.replaces(wanted)), move)
    elif install:
        report.installed(wanted, install_units(wanted, texts), is_again=again is not None)
    elif output is not None:
        report.written(write_out(wanted, texts, output))
    else:
        report.show(wanted, texts)


def _check_actions(**actions: Any) -> None:
    named = [f"--{name}" for name, value in actions.items() if value]
    if len(named) > 1 and named not in (["--again", "--install"], ["--again", "--output"]):
        raise click.UsageError(f"{' and '.join(named)} exclude each other: use one of them")


def _parse(name: str) -> str:
    try:
        return parse_name(name)
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _given_again(context: click.Context, name: str) -> dict[str, Any]:
    """Return the values of the options as before, and as typed now."""
    merged = recorded.merge(context, recorded.read(name, user_manager=context.params["user_manager"]))
    if merged["name"] != name:
        raise click.UsageError(f"--again {name} cannot change the name: remove --name")
    return {key: value for key, value in merged.items() if key not in recorded.ACTIONS}


def _take_over(context: click.Context, name: str, given: dict[str, Any]) -> Takeover:
    """Read a service, and set in `given` what was not typed."""
    typed = {name for name in given if context.get_parameter_source(name) is ParameterSource.COMMANDLINE}
    # It needs gunicorn, which is a fifth of a second, and does not belong into the other commands.
    from flask_socketact.cli.units.takeover import plan

    existing = read(name, Manager(user=given["user_manager"]))
    move = plan(existing, is_app_known="app" in typed)
    given.update({key: value for key, value in move.options.items() if key not in typed})
    move.check(given, typed)
    return move


def _application(context: click.Context, given: dict[str, Any]) -> Application:
    given["python"] = given["python"] or sys.executable
    options = recorded.collect(context, given)
    version = given.pop("systemd_version") or max(OLDEST_SYSTEMD, running_systemd(OLDEST_SYSTEMD))
    return application(**given, systemd_version=version, options=options)
