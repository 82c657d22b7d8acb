"""``flask-socketact units``: the systemd units of an application."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flask_socketact.cli.exit_status import Command
from flask_socketact.cli.options import Seconds
from flask_socketact.cli.units.changes import Changes, look
from flask_socketact.cli.units.install import Installed, missing, running_systemd, write_out
from flask_socketact.cli.units.install import install as install_units
from flask_socketact.cli.units.render import OLDEST_SYSTEMD, application, render
from flask_socketact.errors import ManagerError
from flask_socketact.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from flask_socketact.cli.units.render import Application

#: Greater numbers are typing errors; the limits of systemd and gunicorn are higher.
_MOST = 1_000_000
_COUNT = click.IntRange(1, _MOST)
_SECONDS = Seconds(_MOST)


@click.command(
    cls=Command,
    epilog="Exit status: 0 done; 3 nothing was written; 4 the units are written, but systemd did not load them.",
)
@click.option("--app", metavar="MODULE:OBJECT", default="app:app", show_default=True, help="Application to serve.")
@click.option("--name", metavar="NAME", default="app", show_default=True, help="Name of the service.")
@click.option("--user", metavar="USER", help="User of the workers.  [default: NAME]")
@click.option("--group", metavar="GROUP", help="Group of the workers.  [default: USER's]")
@click.option("--directory", metavar="DIR", help="Folder of the application.  [default: /srv/NAME]")
@click.option("--python", metavar="PATH", help="Python with gunicorn.  [default: DIR/venv/bin/python3]")
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
@click.option("--workers", metavar="N", type=_COUNT, help="Number of workers.")
@click.option("--threads", metavar="N", type=_COUNT, help="Requests at a time in each worker.")
@click.option(
    "--drain",
    metavar="SECONDS",
    type=_SECONDS,
    help="Drain time: how long requests may take to finish.  [default: graceful_timeout, or 30]",
)
@click.option("--no-overlap", is_flag=True, help="Stop old workers before new ones start: clients wait.")
@click.option("--metrics", is_flag=True, help="Share counters between workers, for SOCKETACT_METRICS.")
@click.option(
    "--idle-exit", metavar="SECONDS", type=_SECONDS, help="Stop the service after this time without a connection."
)
@click.option(
    "--systemd-version",
    metavar="N",
    type=click.IntRange(OLDEST_SYSTEMD),
    help="Version of systemd that the units are for.  [default: the running one]",
)
@click.option(
    "--output",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Write the units and the relay into this folder.",
)
@click.option("--install", is_flag=True, help="Install the units and the relay, and reload systemd.")
@click.option("--user-manager", is_flag=True, help="Write units for your own service manager, not the system's.")
def units(*, output: Path | None, install: bool, systemd_version: int | None, no_overlap: bool, **given: Any) -> None:
    """Print, write or install the systemd units of an application.

    By default the units are printed. Nothing is started, and units that this command did not make are not overwritten.
    """
    if install and output is not None:
        raise click.UsageError("--install and --output exclude each other: use one of them")
    version = systemd_version or max(OLDEST_SYSTEMD, running_systemd(OLDEST_SYSTEMD))
    wanted = application(**given, overlap=not no_overlap, systemd_version=version)
    texts = render(wanted)
    if install:
        _report_installed(wanted, install_units(wanted, texts))
    elif output is not None:
        _report_written(write_out(wanted, texts, output))
    else:
        _show(wanted, texts)


def _show(wanted: Application, texts: Mapping[str, str]) -> None:
    """Print the units, as ``systemctl cat`` does."""
    click.echo("\n".join(f"# {wanted.folder}/{unit}\n{text}" for unit, text in texts.items()), nl=False)


def _report_written(paths: list[Path]) -> None:
    for path in paths:
        click.echo(f"Wrote {path}")


def _report_installed(wanted: Application, installed: Installed) -> None:
    """Print what was written, what is missing or in conflict, and what to type next."""
    _report_written(installed.paths)
    try:
        changes = look(wanted, installed.paths)
    except ManagerError as error:
        changes = Changes((f"the addresses that systemd holds are unknown: {error}",), "", is_running=False)
    for line in (*_replaced(wanted, installed.replaced), *missing(wanted), *changes.warnings):
        click.echo(printable(f"Warning: {line}"), err=True)
    if changes.change_over:
        click.echo("The addresses have changed, but systemd still holds the old ones. To change them (clients notice):")
        click.echo(f"  {changes.change_over}")
        return
    # With idle exit, the first connection starts the service.
    service = "" if wanted.idle_exit else f" {wanted.name}.service"
    if changes.is_running:
        click.echo(
            f"The service runs with the old units. Apply the new ones with: {wanted.systemctl} restart {wanted.name}"
        )
    else:
        click.echo(f"Start with:  {wanted.systemctl} enable --now {wanted.name}.socket{service}")
    click.echo(f"Deploy with: {wanted.systemctl} restart {wanted.name}")
    click.echo(f"Check with:  flask-socketact doctor {'--user-manager ' if wanted.user_manager else ''}{wanted.name}")
    if wanted.user_manager:
        click.echo("To keep it running after logout: loginctl enable-linger")


def _replaced(wanted: Application, paths: list[Path]) -> Iterator[str]:
    if paths:
        names = ", ".join(path.name for path in paths)
        yield (
            f"{names} had other content and {'was' if len(paths) == 1 else 'were'} overwritten: changes made by hand "
            f"are lost. Put them into a drop-in, which stays: {wanted.systemctl} edit {paths[0].name}"
        )
