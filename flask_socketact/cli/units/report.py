"""What ``flask-socketact units`` prints: what was done, what is missing or in conflict, and what to type next."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from flask_socketact.cli import typed
from flask_socketact.cli.units.changes import Changes, look
from flask_socketact.cli.units.install import Installed, missing, old_name
from flask_socketact.errors import ManagerError
from flask_socketact.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from flask_socketact.cli.units.removal import Removed
    from flask_socketact.cli.units.render import Application
    from flask_socketact.cli.units.takeover import Takeover


def removed(result: Removed) -> None:
    for path in result.paths:
        click.echo(f"Removed {path}")
    if result.left:
        click.echo("These remain:")
    for line in result.left:
        click.echo(printable(f"  {line}"))


def show(wanted: Application, texts: Mapping[str, str]) -> None:
    """Print the units, as ``systemctl cat`` does."""
    click.echo("\n".join(f"# {wanted.folder}/{unit}\n{text}" for unit, text in texts.items()), nl=False)


def written(paths: list[Path]) -> None:
    for path in paths:
        click.echo(f"Wrote {path}")


def installed(wanted: Application, done: Installed, *, is_again: bool) -> None:
    """Print what was written, what is missing or in conflict, and what to type next.

    :param is_again: the units had other content because they had other options
    """
    written(done.paths)
    try:
        changes = look(wanted, done.paths)
    except ManagerError as error:
        changes = Changes((f"the addresses that systemd holds are unknown: {error}",), "", is_running=False)
    for line in (*_replaced(wanted, [] if is_again else done.replaced), *missing(wanted), *changes.warnings):
        click.echo(printable(f"Warning: {line}"), err=True)
    if changes.change_over:
        click.echo("The addresses have changed, but systemd still holds the old ones. To change them (clients notice):")
        click.echo(f"  {changes.change_over}")
        return
    # With idle exit, the first connection starts the service.
    agent = f" {wanted.agent_socket}" if wanted.agent_socket else ""
    service = agent if wanted.idle_exit else f" {wanted.name}.service"
    if changes.is_running:
        click.echo(
            f"The service runs with the old units. Apply the new ones with: {wanted.systemctl} restart {wanted.name}"
        )
    else:
        click.echo(f"Start with:  {wanted.systemctl} enable --now {wanted.name}.socket{service}")
    click.echo(f"Deploy with: {wanted.systemctl} restart {wanted.name}")
    click.echo(f"Check with:  {typed.command()} doctor {'--user-manager ' if wanted.user_manager else ''}{wanted.name}")
    if wanted.user_manager:
        click.echo("To keep it running after logout: loginctl enable-linger")


def remarks(move: Takeover) -> None:
    """Print what of the old service is not as before."""
    for line in move.remarks:
        click.echo(f"Note: {line}", err=True)


def taken_over(wanted: Application, done: Installed, move: Takeover) -> None:
    """Print what was written, and how to change over."""
    for path in done.moved:
        click.echo(f"Moved {path} to {old_name(path).name}")
    written(done.paths)
    for line in missing(wanted):
        click.echo(printable(f"Warning: {line}"), err=True)
    sockets = " ".join(socket.unit for socket in wanted.sockets)
    start = f"{wanted.systemctl} enable --now {sockets} {wanted.name}.service"
    if move.can_run_next_to(wanted):
        click.echo(f"Start it next to {move.existing.name}.service with: {start}")
    else:
        old = " ".join([f"{move.existing.name}.service", *move.existing.sockets])
        stop = "stop" if wanted.name == move.existing.name else "disable --now"
        click.echo("Change over with (clients notice it, for the last time):")
        click.echo(f"  {wanted.systemctl} {stop} {old} && {start}")
    click.echo(f"Deploy with: {wanted.systemctl} restart {wanted.name}")
    click.echo(f"Check with:  {typed.command()} doctor {'--user-manager ' if wanted.user_manager else ''}{wanted.name}")


def _replaced(wanted: Application, paths: list[Path]) -> Iterator[str]:
    if paths:
        names = ", ".join(path.name for path in paths)
        yield (
            f"{names} had other content and {'was' if len(paths) == 1 else 'were'} overwritten: changes made by hand "
            f"are lost. Put them into a drop-in, which stays: {wanted.systemctl} edit {paths[0].name}"
        )
