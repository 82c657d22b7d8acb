"""What can go wrong between systemd and the application, as exceptions.

Their text is one line: what was found, where, and what to do about it.
"""

from __future__ import annotations


class SocketActError(Exception):
    """Base of every error that this package raises on purpose."""


class ActivationError(SocketActError, RuntimeError):
    """The listeners that systemd passed, or its variables, cannot be used.

    gunicorn prints a RuntimeError of its start as one line and exits with status 1.
    """


class SettingsError(SocketActError, RuntimeError):
    """gunicorn's settings cannot work under systemd."""


class ReloadError(SocketActError):
    """The settings or the application cannot be loaded anew; what was loaded before serves on."""


class NotifyError(SocketActError):
    """A message could not be sent to the service manager."""


class MailboxError(SocketActError):
    """A connection could not be carried, or what came for one is not acceptable."""


class CountersError(SocketActError):
    """What is counted cannot be shared between processes."""
