"""``flask-socketact list``: show the services that ``flask-socketact units`` made."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from flask_socketact.cli import typed
from flask_socketact.cli.exit_status import Command
from flask_socketact.cli.options import user_manager_option
from flask_socketact.systemd.manager import Manager


@click.command(
    "list",
    cls=Command,
    epilog="Exit status: 0 done, whatever the states are; 3 systemd does not respond.",
)
@user_manager_option
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array: name, state, addresses, version, remedy.")
def list_services(*, user_manager: bool, as_json: bool) -> None:
    """Show all services that flask-socketact made on this machine.

    Print a line for each service whose units the command units made: its name, its state, its addresses, the version of
    flask_socketact that it runs (? if that is unknown), and what you should do about it, if anything. You need not be
    root.
    """
    from flask_socketact.cli.list import output, overview

    found = overview.read(Manager(user=user_manager))
    if as_json:
        click.echo(json.dumps([asdict(each) for each in found], indent=2))
    elif found:
        output.show(found)
    else:
        option = " --user-manager" if user_manager else ""
        click.echo(f"There are no services yet: {typed.command()} units{option} --install makes one")
