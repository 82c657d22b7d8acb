"""Exit statuses, and how a command fails: one line on stderr, and a status."""

from __future__ import annotations

import json
from enum import IntEnum
from typing import Any, NoReturn

import click

from flask_socketact.errors import LeftBrokenError, NotDeployedError, OptionError, SocketActError
from flask_socketact.text import printable


class ExitStatus(IntEnum):
    """Exit statuses of all commands."""

    DONE = 0
    """Done. The service is active, no check failed, the promise was kept, the release is deployed."""

    BROKEN = 1
    """A promise is broken, the service is not active, or the release was not deployed and the old one serves."""

    USAGE = 2
    """The command line is wrong."""

    NOTHING_DONE = 3
    """The question could not be asked, and nothing was changed: no such service, no service manager, no permission,
    another deploy is running, a file is in the way. Or ``rehearse`` kept the promise, and its report could not be
    written."""

    ACTION_NEEDED = 4
    """An administrator must act: the deploy failed and could not be rolled back, or systemd did not load new units."""

    INTERRUPTED = 130
    """Ctrl-C, as shells report it."""

    @classmethod
    def of(cls, error: SocketActError) -> ExitStatus:
        """Return the status of a command that failed."""
        statuses = {OptionError: cls.USAGE, NotDeployedError: cls.BROKEN, LeftBrokenError: cls.ACTION_NEEDED}
        return statuses.get(type(error), cls.NOTHING_DONE)


class Command(click.Command):
    """A command whose function may raise errors of the package.

    Each is printed as one line; with ``--json`` as an object, too.
    """

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
