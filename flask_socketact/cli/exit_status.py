"""Exit statuses, and how a command fails: one line on stderr, and a status."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import Any, NoReturn

import click
from click.exceptions import NoArgsIsHelpError

from flask_socketact.errors import LeftBrokenError, NotDeployedError, NotDrainedError, OptionError, SocketActError
from flask_socketact.text import printable


class ExitStatus(IntEnum):
    """Exit statuses of all commands."""

    DONE = 0
    """Done: the service is active, no check failed, the promise was kept, the release is deployed, files are there."""

    BROKEN = 1
    """The service is not active, a check failed, a promise is broken, the release was not deployed and the old one
    serves, or the service was drained and still has requests."""

    USAGE = 2
    """The command line is wrong."""

    NOTHING_DONE = 3
    """Nothing was changed: no such service, no service manager, no permission, another deploy is running, a file is in
    the way, nothing responds at the URL, the command of ``rehearse`` restarts nothing. Or ``rehearse`` kept the
    promise, and its report could not be written."""

    ACTION_NEEDED = 4
    """An administrator must act: the deploy failed and could not be rolled back, or systemd did not load new units."""

    INTERRUPTED = 130
    """Ctrl-C, as shells report it."""

    @classmethod
    def of(cls, error: SocketActError) -> ExitStatus:
        """Return the status of a command that failed."""
        statuses = {
            OptionError: cls.USAGE,
            NotDeployedError: cls.BROKEN,
            NotDrainedError: cls.BROKEN,
            LeftBrokenError: cls.ACTION_NEEDED,
        }
        return statuses.get(type(error), cls.NOTHING_DONE)


@contextmanager
def _usage_in_one_line(context: click.Context) -> Iterator[None]:
    """Report a usage error of click as one line, with the command whose help tells more; click prints four."""
    try:
        yield
    except NoArgsIsHelpError:  # prints the help
        raise
    except click.UsageError as error:
        found = error.format_message().removesuffix(".")
        see = " See" if found.endswith(("?", ")")) else "; see"
        where = error.ctx or context
        fail(context, OptionError(f"{found}{see} {where.command_path} --help"))


class Commands(click.Group):
    """A group of commands that reports a wrong command line as one line."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        with _usage_in_one_line(context):
            return super().parse_args(context, args)

    def invoke(self, context: click.Context) -> Any:
        with _usage_in_one_line(context):
            return super().invoke(context)


class Command(click.Command):
    """A command whose function may raise errors of the package.

    Each is printed as one line; with ``--json`` as an object, too.
    """

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        with _usage_in_one_line(context):
            return super().parse_args(context, args)

    def get_short_help_str(self, limit: int = 45) -> str:
        """Return the first sentence of the help for the list of commands; click cuts it at `limit`."""
        return super().get_short_help_str(max(limit, len(self.help or "")))

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except SocketActError as error:
            if context.params.get("as_json"):
                click.echo(json.dumps({"error": printable(str(error))}, indent=2))
            fail(context, error)
        except KeyboardInterrupt:
            context.exit(ExitStatus.INTERRUPTED)


def fail(context: click.Context, error: SocketActError, status: ExitStatus | None = None) -> NoReturn:
    """Print an error as one line, and exit; by default with the error's status."""
    click.echo(f"Error: {printable(str(error))}", err=True)
    context.exit(ExitStatus.of(error) if status is None else status)
