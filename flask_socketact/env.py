"""All environment variables of this package: name, meaning, and where each is read.

They are not settings of gunicorn, because gunicorn rejects settings that it does not know.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from flask_socketact.errors import SettingsError

#: How long a client may take to send the headers of a request: the first one's from its connection on, a later one's
#: from its first byte on. Seconds. Read by the thread worker (workers/connection_loop.py).
HEADER_TIMEOUT = "SOCKETACT_HEADER_TIMEOUT"
DEFAULT_HEADER_TIMEOUT = 30.0

#: Most bytes of a request's body that are read before a thread runs the application; 0: none. Read by the thread worker
#: (workers/connection_loop.py).
BODY_BUFFER = "SOCKETACT_BODY_BUFFER"
DEFAULT_BODY_BUFFER = 1024 * 1024

#: Most WebSockets that a worker serves at once, each in a thread of its own. Read by the thread worker
#: (workers/upgrades.py).
MAX_WEBSOCKETS = "SOCKETACT_MAX_WEBSOCKETS"
DEFAULT_MAX_WEBSOCKETS = 1000

#: Most streams (responses that last) that a worker serves at once, each in a thread of its own. Read by the thread
#: worker (workers/lasting.py).
MAX_STREAMS = "SOCKETACT_MAX_STREAMS"
DEFAULT_MAX_STREAMS = 1000

#: How long a worker may take to load the application; gunicorn's ``timeout`` is for requests. Seconds. The master reads
#: it and kills a worker that takes longer (master/pool.py); just before, the worker logs its stack (workers/base.py).
LOAD_TIMEOUT = "SOCKETACT_LOAD_TIMEOUT"
DEFAULT_LOAD_TIMEOUT = 600.0

#: The service exits after this time without a connection, in seconds; never, if unset. Read by the master
#: (master/idle_exit.py).
IDLE_EXIT = "SOCKETACT_IDLE_EXIT"

#: ``no``: old and new workers must not run at the same time. The master reads it, and then refuses to reload
#: (master/reload.py); commands read it from the unit (systemd/manager.py).
OVERLAP = "SOCKETACT_OVERLAP"

#: A configuration file of gunicorn whose settings override ours, in the working directory or an absolute path. Read by
#: conf.py.
CONFIG = "SOCKETACT_CONFIG"

#: ``yes`` in the trial of a release (cli/deploy/trial_unit.py). Read by the logger (logs/logger.py), which then sends
#: no metrics to statsd, and by applications that start schedulers when they are imported.
TRIAL = "SOCKETACT_TRIAL"


def header_timeout() -> float:
    """Return :data:`HEADER_TIMEOUT`, in seconds.

    :raises SettingsError: it is not a positive number.
    """
    return _seconds(HEADER_TIMEOUT) or DEFAULT_HEADER_TIMEOUT


def body_buffer() -> int:
    """Return :data:`BODY_BUFFER`, in bytes.

    :raises SettingsError: it is not a number.
    """
    return _number(BODY_BUFFER, DEFAULT_BODY_BUFFER)


def max_websockets() -> int:
    """Return :data:`MAX_WEBSOCKETS`.

    :raises SettingsError: it is not a number.
    """
    return _number(MAX_WEBSOCKETS, DEFAULT_MAX_WEBSOCKETS)


def max_streams() -> int:
    """Return :data:`MAX_STREAMS`.

    :raises SettingsError: it is not a number.
    """
    return _number(MAX_STREAMS, DEFAULT_MAX_STREAMS)


def load_timeout() -> float:
    """Return :data:`LOAD_TIMEOUT`, in seconds.

    :raises SettingsError: it is not a positive number.
    """
    return _seconds(LOAD_TIMEOUT) or DEFAULT_LOAD_TIMEOUT


def idle_exit() -> float | None:
    """Return :data:`IDLE_EXIT`, in seconds; None if the service does not exit when idle.

    :raises SettingsError: it is not a positive number.
    """
    return _seconds(IDLE_EXIT)


def may_overlap(environ: Mapping[str, str]) -> bool:
    """Return whether old and new workers of a service with this environment may run at the same time."""
    return environ.get(OVERLAP) != "no"


def is_trial() -> bool:
    """Return whether this process belongs to the trial of a release."""
    return os.environ.get(TRIAL) == "yes"


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable)
    if not text:
        return default
    if not (text.isascii() and text.isdigit()):
        raise SettingsError(f"{variable}={text!r} is not a number: change it, or remove it")
    return int(text)


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
