"""The current request of this thread or greenlet, whose ID is added to log records.

Setting it costs a fraction of a microsecond. The ID is generated on first use.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from flask_socketact.bridge import keys

#: Generation of this process: set in the master, and in each worker after the fork.
generation: str | None = None

#: Accepted values of X-Request-Id: they appear in logs, and may appear in responses and in requests to other services.
_ACCEPTABLE = re.compile(r"[A-Za-z0-9._~+/=:@-]{1,128}")
_ID_BITS = 64

_current: ContextVar[dict[str, Any] | None] = ContextVar("request", default=None)


def name_generation(master: int, number: int) -> str:
    """Return the name of a generation. `master` is the master's PID; `number` is 1 for its start, and 1 more for each
    reload."""
    return f"{master}.{number}"


def enter(environ: dict[str, Any]) -> None:
    """Set the current request."""
    _current.set(environ)


def leave() -> None:
    """Clear the current request, if there is one."""
    _current.set(None)


def environ() -> dict[str, Any] | None:
    """Return the environ of the current request; None between requests."""
    return _current.get()


def request_id() -> str | None:
    """Return the ID of the current request; None between requests."""
    current = _current.get()
    return id_of(current) if current is not None else None


def id_of(environ: dict[str, Any]) -> str:
    """Return the ID of the request with this `environ`: X-Request-Id if the peer's forwarding headers are trusted,
    otherwise a random ID."""
    known: str | None = environ.get(keys.REQUEST_ID)
    if known is None:
        sent = environ.get("HTTP_X_REQUEST_ID")
        if sent and trusts_peer(environ) and _ACCEPTABLE.fullmatch(sent):
            known = str(sent)
        else:
            known = f"{random.getrandbits(_ID_BITS):016x}"
        environ[keys.REQUEST_ID] = known
    return known


def trusts_peer(environ: dict[str, Any]) -> bool:
    """Return whether the peer's forwarding headers are trusted; never with another server than our workers."""
    is_trusted: Callable[[], bool] | None = environ.get(keys.TRUSTS_PEER)
    return is_trusted is not None and is_trusted()
