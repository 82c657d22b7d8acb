"""The values of options of ``rehearse``."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flask_socketact import files
from flask_socketact.errors import OptionError, UnsafePathError

if TYPE_CHECKING:
    from flask_socketact.cli.rehearse.outcome import Condition


@dataclass(frozen=True)
class Destination:
    """Where the report goes."""

    folder: files.Folder
    path: Path


def split_words(_context: click.Context, parameter: click.Parameter, value: str | None) -> list[str] | None:
    """Split a command line, which runs without a shell."""
    try:
        words = None if value is None else shlex.split(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is not a command: {error}", param=parameter) from None
    if words == []:
        raise click.BadParameter("the command is empty", param=parameter)
    return words


def read_conditions(_context: click.Context, parameter: click.Parameter, value: str) -> list[Condition]:
    from flask_socketact.cli.rehearse.outcome import parse_conditions

    try:
        return parse_conditions(value)
    except OptionError as error:
        raise click.BadParameter(str(error), param=parameter) from None


def open_destination(context: click.Context, _parameter: click.Parameter, value: Path | None) -> Destination | None:
    """Open the folder before anything is restarted: later its owner may replace it with another."""
    if value is None:
        return None
    if not value.name:
        raise click.BadParameter("'' is not a file: is a variable empty?")
    try:
        folder = context.with_resource(files.Folder(value.parent))
    except UnsafePathError as error:
        raise click.BadParameter(f"{value.parent} is not safe for root to write to: {error.strerror}") from None
    except OSError as error:
        raise click.BadParameter(f"{value.parent} is not a writable folder: {error.strerror}") from None
    if not os.access(".", os.W_OK, dir_fd=folder.descriptor):
        raise click.BadParameter(f"{value.parent} is not a writable folder")
    return Destination(folder, value)
