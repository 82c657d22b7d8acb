"""How long a worker may load the application: gunicorn's ``timeout`` is that of requests."""

from __future__ import annotations

from flask_socketact import env

#: Environment variable, in seconds.
LOAD_TIMEOUT = "SOCKETACT_LOAD_TIMEOUT"
DEFAULT_LOAD_TIMEOUT = 600.0
#: One that takes longer writes down where it is before it is killed, so many seconds later.
STACK_TIME = 0.5


def load_timeout() -> float:
    """Return how long a worker may load the application, in seconds.

    :raises SettingsError: the environment has no positive number for it.
    """
    return env.seconds(LOAD_TIMEOUT) or DEFAULT_LOAD_TIMEOUT


def describe(limit: float) -> str:
    """Name the limit, and where it is set."""
    return f"{LOAD_TIMEOUT} = {limit:g} s"
