"""``flask-socketact init``: write a configuration file for gunicorn."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import click

from flask_socketact.cli.exit_status import Command
from flask_socketact.errors import NotBegunError

NAME = "flask_socketact.conf"


@click.command(cls=Command, epilog="Exit status: 0 done; 3 nothing was written.")
@click.argument(
    "directory", metavar="[DIR]", default=".", type=click.Path(exists=True, file_okay=False, path_type=Path)
)
def init(directory: Path) -> None:
    """Write a configuration file for gunicorn.

    DIR is the application's folder, by default the current one. The file, flask_socketact.conf, has comments for each
    setting. An existing file is not changed. To use it, install the units again, or start gunicorn with
    -c flask_socketact.conf.
    """
    target = directory / NAME
    content = resources.files("flask_socketact.cli.init").joinpath(NAME).read_bytes()
    try:
        _create(target, content)
    except FileExistsError:
        raise NotBegunError(f"{target} exists and was not changed: edit it, or remove it first") from None
    except OSError as error:
        raise NotBegunError(f"{target} cannot be written: {error.strerror}") from None
    click.echo(f"Wrote {target}. Run: gunicorn -c {NAME} app:app")


def _create(target: Path, content: bytes) -> None:
    """Write a new file completely, or not at all (if the disk is full)."""
    file = target.open("xb")
    try:
        with file:
            file.write(content)
    except OSError:
        target.unlink()
        raise
