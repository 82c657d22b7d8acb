"""``flask-socketact status``: what there is to see of a service, now or again and again."""

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

#: Between two looks: what was counted meanwhile makes the requests per second. Seconds.
INTERVAL = 1.0


@click.command(cls=Command)
@name_argument
@user_manager_option
@click.option("--watch", is_flag=True, help="Go on, every second, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="Print an object; with --watch one a line.")
@click.pass_context
def status(context: click.Context, /, name: str, *, user_manager: bool, watch: bool, as_json: bool) -> None:
    """Show the listeners, workers and old generations of the service NAME, and its last restart.

    One need not be root for it. Exit status: 0 the service is active, 1 it is not, 2 wrong usage, 3 there is no such
    service, or systemd does not answer.
    """
    looks = _looks(name, Manager(user=user_manager))
    try:
        if watch:
            _watch(looks, as_json=as_json)
        seen = next(looks)
    except KeyboardInterrupt:
        if not watch:
            raise
        context.exit(ExitStatus.DONE)
    if as_json:
        click.echo(json.dumps(asdict(seen), indent=2))
    else:
        from flask_socketact.cli.status import output

        output.show(seen)
    context.exit(ExitStatus.DONE if seen.is_active else ExitStatus.BROKEN)


def _looks(name: str, manager: Manager) -> Iterator[Overview]:
    """Yield a look at the service after every interval; the first is taken at once, and only compared with."""
    from flask_socketact.cli.status import snapshot

    seen, at = snapshot.look(name, manager), time.monotonic()
    while True:
        if seen.is_active:  # otherwise there is nothing to compare
            time.sleep(max(0.0, at + INTERVAL - time.monotonic()))
        before, began = seen, at
        at = time.monotonic()
        seen = snapshot.look(name, manager, before, at - began)
        yield seen
        if not seen.is_active:
            time.sleep(INTERVAL)


def _watch(looks: Iterator[Overview], *, as_json: bool) -> None:
    """Show one look after the other; ends by KeyboardInterrupt alone."""
    if as_json:
        for seen in looks:
            click.echo(json.dumps(asdict(seen)))
    from flask_socketact.cli.status import output

    output.watch(looks)
