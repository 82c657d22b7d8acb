"""``flask-socketact status``: show what a service is doing, once or every second."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from flask_socketact.cli.exit_status import Command, ExitStatus
from flask_socketact.cli.options import name_argument, user_manager_option
from flask_socketact.systemd.manager import Manager

if TYPE_CHECKING:
    from flask_socketact.cli.status.snapshot import Overview

#: Time between two looks, in seconds: requests per second are computed from both.
INTERVAL = 1.0


@click.command(
    cls=Command,
    epilog="Exit status: 0 the service is active; 1 it is not; 3 there is no such service, or systemd"
    " does not respond.",
)
@name_argument
@user_manager_option
@click.option("--watch", is_flag=True, help="Repeat it every second until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object; with --watch print one per line.")
@click.pass_context
def status(context: click.Context, /, name: str, *, user_manager: bool, watch: bool, as_json: bool) -> None:
    """Show the state of a service and its workers.

    Show the listeners of the service NAME, with the connections that wait in the kernel; its workers, with their
    requests, errors, connections and memory; what old workers wait for; and how long the last restart took. You need
    not be root.
    """
    looks = _looks(name, Manager(user=user_manager))
    try:
        if watch:
            _watch(looks, user=user_manager, as_json=as_json)
        seen = next(looks)
    except KeyboardInterrupt:
        if not watch:
            raise
        context.exit(ExitStatus.DONE)
    if as_json:
        click.echo(json.dumps(asdict(seen), indent=2))
    else:
        from flask_socketact.cli.status import output

        output.show(seen, user=user_manager)
    context.exit(ExitStatus.DONE if seen.is_active else ExitStatus.BROKEN)


def _looks(name: str, manager: Manager) -> Iterator[Overview]:
    """Yield a look at the service after each interval; an earlier one is only used to compute rates."""
    from flask_socketact.cli.status import snapshot

    seen, at = snapshot.look(name, manager), time.monotonic()
    while True:
        if seen.is_active:  # otherwise there are no rates
            time.sleep(max(0.0, at + INTERVAL - time.monotonic()))
        before, began = seen, at
        at = time.monotonic()
        seen = snapshot.look(name, manager, before, at - began)
        yield seen
        if not seen.is_active:
            time.sleep(INTERVAL)


def _watch(looks: Iterator[Overview], *, user: bool, as_json: bool) -> None:
    """Show one look after the other until KeyboardInterrupt."""
    if as_json:
        for seen in looks:
            click.echo(json.dumps(asdict(seen)))
    from flask_socketact.cli.status import output

    output.watch(looks, user=user)
