"""``flask-socketact init``: a configuration file for the application's own settings."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import click

from flask_socketact.cli.exit_status import Command
from flask_socketact.errors import NotBegunError

NAME = "flask_socketact.conf"


@click.command(cls=Command)
@click.argument("directory", default=".", type=click.Path(exists=True, file_okay=False, path_type=Path))
def init(directory: Path) -> None:
    """Write flask_socketact.conf into DIRECTORY, the application's folder (default: here).

    The file is read by: gunicorn -c flask_socketact.conf MODULE:APP
    """
    target = directory / NAME
    content = resources.files("flask_socketact.cli.init").joinpath(NAME).read_bytes()
    try:
        _create(target, content)
    except FileExistsError:
        raise NotBegunError(f"{target} exists and is left as it is: edit it, or remove it first") from None
    except OSError as error:
        raise NotBegunError(f"{target} cannot be written: {error.strerror}") from None
    click.echo(f"Wrote {target}. Run: gunicorn -c {NAME} app:app")


def _create(target: Path, content: bytes) -> None:
    """Write a new file, whole or (the disk is full) not at all."""
    file = target.open("xb")
    try:
        with file:
            file.write(content)
    except OSError:
        target.unlink()
        raise
