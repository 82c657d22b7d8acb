"""``flask-socketact units``: the units of systemd for an application."""

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

#: What is more is a slip of the hand; systemd's and gunicorn's own limits are further off.
_MOST = 1_000_000
_COUNT = click.IntRange(1, _MOST)
_SECONDS = Seconds(_MOST)


@click.command(cls=Command)
@click.option("--app", metavar="MODULE:OBJECT", default="app:app", show_default=True, help="What gunicorn serves.")
@click.option("--name", metavar="NAME", default="app", show_default=True, help="Name of the service.")
@click.option("--user", metavar="USER", help="Whom the workers run as.  [default: NAME]")
@click.option("--group", metavar="GROUP", help="Their group.  [default: USER's]")
@click.option("--directory", metavar="DIR", help="The application's folder.  [default: /srv/NAME]")
@click.option("--python", metavar="PATH", help="Python, with gunicorn beside it.  [default: DIR/venv/bin/python3]")
@click.option(
    "--listen",
    metavar="ADDRESS[=NAME]",
    multiple=True,
    default=["127.0.0.1:8000"],
    show_default=True,
    help="HOST:PORT, [IPV6]:PORT, PORT or /PATH, and the listener's name (http). Can be repeated.",
)
@click.option("--socket-group", metavar="GROUP", help="Who may connect to paths: www-data for nginx.  [default: GROUP]")
@click.option("--workers", metavar="N", type=_COUNT, help="Processes.")
@click.option("--threads", metavar="N", type=_COUNT, help="Threads in each.")
@click.option("--drain", metavar="SECONDS", type=_SECONDS, help="How long requests may take to end.  [gunicorn's: 30]")
@click.option("--no-overlap", is_flag=True, help="Old workers leave before others start: clients wait in a restart.")
@click.option("--metrics", is_flag=True, help="Let the workers count together, for SOCKETACT_METRICS.")
@click.option("--idle-exit", metavar="SECONDS", type=_SECONDS, help="Leave after so long without a connection.")
@click.option(
    "--systemd-version",
    metavar="N",
    type=click.IntRange(OLDEST_SYSTEMD),
    help="Which the units are for.  [default: the running one]",
)
@click.option(
    "--output",
    metavar="DIR",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Write the units, and the relay that they call, into this folder.",
)
@click.option("--install", is_flag=True, help="Write them where systemd reads them, and let it.")
@click.option("--user-manager", is_flag=True, help="For systemctl --user.")
def units(*, output: Path | None, install: bool, systemd_version: int | None, no_overlap: bool, **given: Any) -> None:
    """Print the systemd units of an application, or write or install them."""
    if install and output is not None:
        raise click.UsageError("--install knows where to write: leave --output out")
    version = systemd_version or max(OLDEST_SYSTEMD, running_systemd(OLDEST_SYSTEMD))
    wanted = application(**given, overlap=not no_overlap, systemd_version=version)
    texts = render(wanted)
    if install:
        _tell_installed(wanted, install_units(wanted, texts))
    elif output is not None:
        _tell_written(write_out(wanted, texts, output))
    else:
        _show(wanted, texts)


def _show(wanted: Application, texts: Mapping[str, str]) -> None:
    """Print the units, as ``systemctl cat`` does."""
    click.echo("\n".join(f"# {wanted.folder}/{unit}\n{text}" for unit, text in texts.items()), nl=False)


def _tell_written(paths: list[Path]) -> None:
    for path in paths:
        click.echo(f"Wrote {path}")


def _tell_installed(wanted: Application, installed: Installed) -> None:
    """Say what was written, what is missing or in the way, and what to type next."""
    _tell_written(installed.paths)
    try:
        changes = look(wanted, installed.paths)
    except ManagerError as error:
        changes = Changes((f"what systemd holds is not known: {error}",), "", is_running=False)
    for line in (*_replaced(wanted, installed.replaced), *missing(wanted), *changes.warnings):
        click.echo(printable(f"Warning: {line}"), err=True)
    if changes.change_over:
        click.echo("The addresses have changed, and systemd holds those from before. To change over (clients notice):")
        click.echo(f"  {changes.change_over}")
        return
    # One that leaves when nobody asks for anything need not be there before somebody does.
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
            f"{names} {'was' if len(paths) == 1 else 'were'} different, and {'is' if len(paths) == 1 else 'are'} "
            "overwritten: what was changed by hand is lost. Put that into a drop-in, which stays: "
            f"{wanted.systemctl} edit {paths[0].name}"
        )
