"""All exceptions of the package. Their text is one line: what happened, where, and what to do."""

from __future__ import annotations


class SocketActError(Exception):
    """Base of all errors that this package raises."""


# The server.


class ActivationError(SocketActError, RuntimeError):
    """The listeners or the environment variables from systemd cannot be used.

    gunicorn prints a RuntimeError during its start as one line, and exits with status 1.
    """


class SettingsError(SocketActError, RuntimeError):
    """gunicorn's settings cannot work under systemd."""


class ReloadError(SocketActError):
    """The settings or the application could not be reloaded. The old ones stay in use."""


class NotifyError(SocketActError):
    """A message could not be sent to the service manager."""


class MailboxError(SocketActError):
    """A connection could not be handed over, or a message in the mailbox is not acceptable."""


class CountersError(SocketActError):
    """Processes cannot share their counters."""


class ApplicationError(SocketActError):
    """Stands for an exception of the application that gunicorn would take for its own.

    gunicorn reads an OSError as an error of the client's socket, and a BaseException as the end of the greenlet or
    worker. To this error it responds with 500.
    """


# Files and systemd.


class UnsafePathError(SocketActError, PermissionError):
    """A user could redirect root on this path: see :func:`flask_socketact.files.open_folder`."""


class ManagerError(SocketActError):
    """The service manager does not respond, or does not know the unit."""


# Commands.


class AccountError(SocketActError):
    """There is no such user or group."""


class OptionError(SocketActError):
    """An option has a value that cannot be used, or contradicts another option."""


class UnitError(SocketActError):
    """The units cannot be rendered or written."""


class ReportError(SocketActError):
    """A report cannot be read or written."""


class RehearsalError(SocketActError):
    """The rehearsal cannot start."""


class RequestError(SocketActError):
    """A request of a rehearsal failed. The text is one of a few reasons, so that failures can be counted."""


class NotBegunError(SocketActError):
    """Nothing was changed."""


class RecordError(SocketActError):
    """Another deploy is running, or the record of a deploy cannot be read or written."""


class ReleaseError(SocketActError):
    """The link to the release cannot be switched. Nothing was changed."""


class CommandError(SocketActError):
    """systemctl failed. The text is its own."""


class UnhealthyError(SocketActError):
    """The new generation is not healthy."""


class NotDeployedError(SocketActError):
    """The new release was bad. The old release serves."""


class NotDrainedError(SocketActError):
    """A service that was drained still has requests, or is no longer drained."""


class LeftBrokenError(SocketActError):
    """A change was made that could not be completed or rolled back. An administrator must act."""
