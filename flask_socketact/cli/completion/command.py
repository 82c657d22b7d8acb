"""``flask-socketact completion``: print or install the completion of commands in a shell."""

from __future__ import annotations

import os
from pathlib import Path

import click

from flask_socketact.cli.completion.shells import SHELLS, script
from flask_socketact.cli.completion.shells import install as write
from flask_socketact.cli.exit_status import Command
from flask_socketact.text import printable


@click.command(cls=Command, epilog="Exit status: 0 done; 3 nothing was written.")
@click.argument("shell", type=click.Choice(list(SHELLS)), required=False, metavar="[bash|zsh|fish]")
@click.option(
    "--install",
    is_flag=True,
    help="Write it where the shell finds it: for all users if you are root, otherwise for you.",
)
def completion(*, shell: str | None, install: bool) -> None:
    """Print or install completion for a shell.

    The shell then completes commands, options and the names of services when you press Tab. Without an argument the
    environment variable SHELL names the shell.
    """
    name = shell or Path(os.environ.get("SHELL", "")).name
    if name not in SHELLS:
        raise click.UsageError("the variable SHELL does not name a shell that is supported: add bash, zsh or fish")
    text = script(name)
    if not install:
        click.echo(text, nl=False)
        return
    path = SHELLS[name].path(is_root=os.geteuid() == 0)
    write(path, text)
    click.echo(printable(f"Wrote {path}. {SHELLS[name].hint(path)}"))
