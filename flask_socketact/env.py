"""Every environment variable of ours: its name, what it holds, and who reads it.

gunicorn takes no settings of others, so these are no settings.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from flask_socketact.errors import SettingsError

#: How long a client may take from connecting, and from the first byte of a later request, until the head of its request
#: is whole. Seconds. The thread worker reads it: workers/connection_loop.py.
HEADER_TIMEOUT = "SOCKETACT_HEADER_TIMEOUT"
DEFAULT_HEADER_TIMEOUT = 30.0

#: How long a worker may load the application; gunicorn's ``timeout`` is that of requests. Seconds. The master reads it,
#: and ends a worker that takes longer (master/pool.py); the worker, which says before where it is (workers/base.py).
LOAD_TIMEOUT = "SOCKETACT_LOAD_TIMEOUT"
DEFAULT_LOAD_TIMEOUT = 600.0

#: After so many seconds without a connection the service leaves; unset: it stays. The master reads it:
#: master/idle_exit.py.
IDLE_EXIT = "SOCKETACT_IDLE_EXIT"

#: ``no``: old and new workers must not live at the same time. The master reads it, which then refuses to reload
#: (master/reload.py), and the command, from the unit (systemd/manager.py).
OVERLAP = "SOCKETACT_OVERLAP"


def header_timeout() -> float:
    """Return :data:`HEADER_TIMEOUT`, in seconds.

    :raises SettingsError: it is no positive number.
    """
    return _seconds(HEADER_TIMEOUT) or DEFAULT_HEADER_TIMEOUT


def load_timeout() -> float:
    """Return :data:`LOAD_TIMEOUT`, in seconds.

    :raises SettingsError: it is no positive number.
    """
    return _seconds(LOAD_TIMEOUT) or DEFAULT_LOAD_TIMEOUT


def idle_exit() -> float | None:
    """Return :data:`IDLE_EXIT`, in seconds; None: stay.

    :raises SettingsError: it is no positive number.
    """
    return _seconds(IDLE_EXIT)


def may_overlap(environ: Mapping[str, str]) -> bool:
    """Return whether the old and new workers of a service with this environment may live at the same time."""
    return environ.get(OVERLAP) != "no"


def _seconds(variable: str) -> float | None:
    text = os.environ.get(variable)
    if not text:
        return None
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise SettingsError(f"{variable}={text!r} is not a positive number of seconds: change it, or remove it")
    return value
