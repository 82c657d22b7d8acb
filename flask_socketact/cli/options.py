"""Arguments and options that several commands have."""

from __future__ import annotations

import re
from typing import Any

import click

#: Names that systemctl does not read as an option, a pattern or a path.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@\\-]{0,200}")
#: Names of templates and of units of other types.
OTHERS = re.compile(r".*(@|\.(socket|target|device|mount|automount|swap|timer|path|slice|scope))")


class Seconds(click.IntRange):
    """Whole seconds, at least one."""

    name = "seconds"

    def __init__(self, most: int) -> None:
        super().__init__(1, most)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not re.fullmatch(r"-?[0-9]+", str(value)):
            self.fail(f"{value!r} is not a number of seconds: write 10800 for 3h", param, ctx)
        return super().convert(value, param, ctx)


def parse_name(name: str) -> str:
    """Return the name of a service without ``.service``.

    :raises ValueError: `name` is not the name of a service.
    """
    stem = name.removesuffix(".service")
    if not NAME.fullmatch(stem) or OTHERS.fullmatch(stem):
        raise ValueError(f"{name!r} is not the name of a service")
    return stem


def _name(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    try:
        return parse_name(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def name_argument(command: Any) -> Any:
    """Add the argument NAME to a command."""
    return click.argument("name", callback=_name)(command)


def user_manager_option(command: Any) -> Any:
    """Add the option ``--user-manager`` to a command."""
    return click.option("--user-manager", is_flag=True, help="Use your own service manager, not the system's.")(command)
