"""How long a request waited before a worker read it; deadlines.py rejects those that waited too long."""

from __future__ import annotations

import re
import time
from typing import Any

from flask_socketact.bridge import keys, request_context
from flask_socketact.linux import socket_queues

#: If the connection was idle for no longer, the request cannot have waited longer either. Seconds.
_AT_ONCE = 0.05
#: A proxy's clock that differs by more than this is wrong. Seconds.
_PLAUSIBLE = 3600.0
_START = re.compile(r"(?:t=)?(\d{10,16}(?:\.\d{1,9})?)")
#: From these numbers on it is microseconds, or milliseconds: seconds have ten digits until the year 2286.
_MICROSECONDS, _MILLISECONDS = 1e14, 1e11


def waited(environ: dict[str, Any]) -> float:
    """Return how long a request waited before it was read, in seconds; 0.0 if that is not known.

    It is the time since ``X-Request-Start`` of a trusted proxy, or else since the kernel received the last bytes.
    """
    known = environ.get(keys.WAITED)
    if known is None:
        since = None
        if "HTTP_X_REQUEST_START" in environ and request_context.trusts_peer(environ):
            since = _since(environ["HTTP_X_REQUEST_START"])
        connection = environ.get("gunicorn.socket")
        if since is None and connection is not None:
            since = socket_queues.seconds_since_data(connection)
        known = environ[keys.WAITED] = since or 0.0
    return float(known)


def is_at_once(environ: dict[str, Any], now: float) -> bool:
    """Return whether a request cannot have waited, without asking the kernel, which costs a system call."""
    return now - environ.get(keys.FREE_SINCE, 0.0) < _AT_ONCE and "HTTP_X_REQUEST_START" not in environ


def _since(text: str) -> float | None:
    """Return the seconds since the time in ``X-Request-Start``; None if it is malformed or implausible.

    It is in seconds, milliseconds or microseconds since 1970, with or without ``t=`` before it.
    """
    match = _START.fullmatch(text.strip())
    if match is None:
        return None
    number = float(match[1])
    began = number / (1e6 if number >= _MICROSECONDS else 1e3 if number >= _MILLISECONDS else 1.0)
    seconds = time.time() - began
    return max(0.0, seconds) if abs(seconds) <= _PLAUSIBLE else None
