"""The options with which units were made: they stand in the comment at the top of the service's unit."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from flask_socketact import files
from flask_socketact.cli.units.install import is_ours, unit_folder
from flask_socketact.cli.units.render import CONTINUATION, OPTIONS
from flask_socketact.errors import UnitError

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Options that say what to do with the units, and not what is in them.
ACTIONS = ("again", "source", "remove", "output", "install")


def collect(context: click.Context, values: dict[str, Any]) -> tuple[str, ...]:
    """Return the options that make the same units again; `values` are those of the command's parameters."""
    return tuple(_words(context, values))


def _words(context: click.Context, values: dict[str, Any]) -> Iterator[str]:
    for option in context.command.params:
        name = option.name or ""
        value = values.get(name)
        if name in ACTIONS or value is None or value == option.get_default(context):
            continue
        for each in value if isinstance(value, tuple) else (value,):
            yield option.secondary_opts[0] if each is False else option.opts[0]
            if not isinstance(each, bool):
                yield str(each)


def read(name: str, *, user_manager: bool) -> list[str]:
    """Return the options with which the units of a service were made.

    :raises UnitError: there are no such units, or they do not tell.
    """
    path = unit_folder(user_manager=user_manager) / f"{name}.service"
    try:
        text = files.read(path)
    except FileNotFoundError:
        raise UnitError(f"there is no {path}: make it with --name {name} --install") from None
    except OSError as error:
        raise UnitError(f"{path} cannot be read: {error.strerror}") from None
    if not is_ours(text):
        raise UnitError(f"{path} was not made by flask-socketact: take it over with --from {name}.service")
    options = _find(text)
    if options is None:
        raise UnitError(
            f"{path} was made by an earlier version, which did not write its options down: make it once more, with "
            "--install and all options that it needs"
        )
    return options


def _find(text: str) -> list[str] | None:
    lines = text.splitlines()
    begin = next((number for number, line in enumerate(lines) if line.startswith(OPTIONS)), None)
    if begin is None:
        return None
    words = lines[begin].removeprefix(OPTIONS)
    for line in lines[begin + 1 :]:
        if not line.startswith(CONTINUATION):
            break
        words += line.removeprefix(CONTINUATION[:1])
    return shlex.split(words)


def merge(context: click.Context, options: list[str]) -> dict[str, Any]:
    """Return the values of the command's parameters: those that were typed, and for the others those of `options`.
    What the application may write, and environment files, add to those of before.

    :raises click.UsageError: `options` were edited by hand, and are not options of this version.
    """
    before = context.command.make_context(context.info_name, options, parent=context.parent)
    typed = [name for name in context.params if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    merged = before.params | {name: context.params[name] for name in typed}
    for name in ("write", "env_files"):
        merged[name] = tuple(dict.fromkeys((*before.params[name], *context.params[name])))
    return merged
