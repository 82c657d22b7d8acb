"""What ``flask-socketact units`` prints: what was done, what is missing or in conflict, and what to type next."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from flask_socketact.cli import typed
from flask_socketact.cli.units.changes import Changes, look
from flask_socketact.cli.units.install import Installed, missing, old_name
from flask_socketact.errors import ManagerError
from flask_socketact.systemd import unit_names
from flask_socketact.systemd.manager import Manager
from flask_socketact.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from flask_socketact.cli.units.application import Application
    from flask_socketact.cli.units.removal import Removed
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
        changes = Changes((f"the addresses that systemd holds are unknown: {error}",), "", ())
    for line in (*_replaced(wanted, [] if is_again else done.replaced), *missing(wanted), *changes.warnings):
        click.echo(printable(f"Warning: {line}"), err=True)
    if changes.change_over:
        click.echo("The addresses have changed, but systemd still holds the old ones. To change them (clients notice):")
        click.echo(f"  {changes.change_over}")
        return
    if changes.running:
        names = " ".join(map(shlex.quote, changes.running))
        click.echo(f"The service runs with the old units. Apply the new ones with: {wanted.systemctl} restart {names}")
    else:
        name, one = _an_instance(wanted)
        # With idle exit, the first connection starts the service.
        agent = f" {wanted.agent_socket}" if wanted.agent_socket else ""
        service = agent if wanted.idle_exit else f" {name}.service"
        click.echo(f"Start {one}with:  {wanted.systemctl} enable --now {name}.socket{service}")
    _next_steps(wanted)
    if wanted.user_manager:
        click.echo("To keep it running after logout: loginctl enable-linger")


def remarks(move: Takeover, wanted: Application) -> None:
    """Print what of the old service is not as before."""
    for line in move.notes(wanted):
        note(line)


def note(text: str) -> None:
    click.echo(printable(f"Note: {text}"), err=True)


def taken_over(wanted: Application, done: Installed, move: Takeover) -> None:
    """Print what was written, and how to change over."""
    for path in done.moved:
        click.echo(f"Moved {path} to {old_name(path).name}")
    written(done.paths)
    for line in missing(wanted):
        click.echo(printable(f"Warning: {line}"), err=True)
    name, _ = _an_instance(wanted)
    if move.can_run_next_to(wanted):
        click.echo(f"Start it next to {move.existing.name}.service with: {_start(wanted, name)}")
    else:
        click.echo("Change over with (clients notice it, for the last time):")
        for each in _taken_over(wanted, move) or [name]:
            old = [f"{move.existing.name}.service", *move.existing.sockets]
            units = " ".join(unit_names.of_instance(unit, each) if wanted.is_template else unit for unit in old)
            stop = "stop" if wanted.name == move.existing.name else "disable --now"
            click.echo(f"  {wanted.systemctl} {stop} {units} && {_start(wanted, each)}")
    _next_steps(wanted)


def _taken_over(wanted: Application, move: Takeover) -> list[str]:
    """Return the services that change over: of a template, the instances that are loaded."""
    if not wanted.is_template or wanted.name != move.existing.name:
        return []
    try:
        return Manager(user=wanted.user_manager).names(wanted.name)
    except ManagerError:
        return []


def _start(wanted: Application, name: str) -> str:
    sockets = " ".join(unit_names.of_instance(socket.unit, name) for socket in wanted.sockets)
    return f"{wanted.systemctl} enable --now {sockets} {name}.service"


def _an_instance(wanted: Application) -> tuple[str, str]:
    """Return a name for a command that starts a service, and what to call it."""
    return (f"{wanted.name}1", "an instance ") if wanted.is_template else (wanted.name, "")


def _next_steps(wanted: Application) -> None:
    name, _ = _an_instance(wanted)
    click.echo(f"Deploy with: {wanted.systemctl} restart {name}")
    click.echo(f"Check with:  {typed.command()} doctor {'--user-manager ' if wanted.user_manager else ''}{name}")


def _replaced(wanted: Application, paths: list[Path]) -> Iterator[str]:
    if paths:
        names = ", ".join(path.name for path in paths)
        yield (
            f"{names} had other content and {'was' if len(paths) == 1 else 'were'} overwritten: changes made by hand "
            f"are lost. Put them into a drop-in, which stays: {wanted.systemctl} edit {paths[0].name}"
        )
