"""Arguments and options that several commands have."""

from __future__ import annotations

import math
import re
from typing import Any

import click
from click.shell_completion import CompletionItem

from flask_socketact.cli import typed
from flask_socketact.errors import ManagerError
from flask_socketact.systemd import unit_names
from flask_socketact.systemd.manager import Manager

#: Names that systemctl does not read as an option, a pattern or a path.
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:@\\-]{0,200}")
#: Names of units of other types.
OTHERS = re.compile(r".*\.(socket|target|device|mount|automount|swap|timer|path|slice|scope)")


class Count(click.IntRange):
    """Whole numbers in a range, which help and errors show as "1 to 1,000,000"."""

    name = "count"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not re.fullmatch(r"[+-]?[0-9]+", str(value)):
            self.fail(f"{value!r} is not a whole number", param, ctx)
        return super().convert(value, param, ctx)

    def _describe_range(self) -> str:
        return _range_in_words(self.min, self.max)


class Seconds(Count):
    """Whole seconds, at least one."""

    name = "seconds"

    def __init__(self, most: int) -> None:
        super().__init__(1, most)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not re.fullmatch(r"[+-]?[0-9]+", str(value)):
            self.fail(f"{value!r} is not a number of seconds: write 10800 for 3h", param, ctx)
        return super().convert(value, param, ctx)


class Number(click.FloatRange):
    """Numbers in a range, which help and errors show as "0.5 to 3,600"."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if math.isnan(number):
            self.fail(f"{value!r} is not a number", param, ctx)
        return super().convert(value, param, ctx)

    def _describe_range(self) -> str:
        return _range_in_words(self.min, self.max)


def parse_percent(value: str, most: int) -> int:
    """Return a whole percentage, with or without the sign, from 1 to `most`.

    :raises ValueError: `value` is none.
    """
    found = re.fullmatch(r"([1-9][0-9]{0,2})%?", value)
    if found is None or int(found[1]) > most:
        raise ValueError(f"{value!r} is not a percentage from 1% to {most}%")
    return int(found[1])


def _range_in_words(least: float | None, most: float | None) -> str:
    """Return a range with a lower limit; click's own is "1<=x<=1000000"."""
    low, high = ("" if limit is None else f"{limit:,}".removesuffix(".0") for limit in (least, most))
    return f"{low} to {high}" if high else f"{low} or more"


def parse_name(name: str, *, may_be_template: bool = False) -> str:
    """Return the name of a service without ``.service``.

    :raises ValueError: `name` is not the name of a service.
    """
    stem = name.removesuffix(".service")
    if unit_names.is_template(stem) and not may_be_template:
        raise ValueError(f"{name!r} is a template: write one of its instances, such as {stem}1")
    if stem.count("@") > 1:
        raise ValueError(f"{name!r} has two @: give the instance a name without one, or clients wait in its restarts")
    if unit_names.is_instance(stem) and "\\" in stem:  # in RuntimeDirectory=, systemd 257 cannot read it
        raise ValueError(
            f"{name!r} has a backslash: give the instance a name of letters, digits and :_.-, as app@eu-west"
        )
    if not NAME.fullmatch(stem) or OTHERS.fullmatch(stem):
        raise ValueError(
            f"{name!r} is not the name of a service, such as app: {typed.command()} list shows all services"
        )
    return stem


def _name(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    try:
        return parse_name(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _complete_name(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Return the services of ours whose names begin with `incomplete`, for completion in a shell."""
    from flask_socketact.cli import services

    try:
        names = services.names(Manager(user=bool(context.params.get("user_manager"))))
    except ManagerError:
        return []  # the shell shows no errors, and the command itself reports it
    return [CompletionItem(name) for name in names if name.startswith(incomplete)]


def complete_folder(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Let the shell complete the path of a folder."""
    return [CompletionItem(incomplete, type="dir")]


def name_argument(command: Any) -> Any:
    """Add the argument NAME to a command."""
    return click.argument("name", callback=_name, shell_complete=_complete_name)(command)


def user_manager_option(command: Any) -> Any:
    """Add the option ``--user-manager`` to a command."""
    return click.option("--user-manager", is_flag=True, help="Use your own service manager, not the system's.")(command)
