"""The request that this thread or greenlet answers: what is logged meanwhile bears its id.

Setting it costs a fraction of a microsecond; an id is made when somebody asks for it.
"""

from __future__ import annotations

import re
import secrets
from contextvars import ContextVar
from typing import Any

#: Of this process: set by the master, and after the fork.
generation: str | None = None

#: Environ key of the request's id; absent until somebody has asked.
REQUEST_ID = "socketact.request_id"
#: What is taken from X-Request-Id: it comes back in logs and, perhaps, in answers and other services' requests.
_ACCEPTABLE = re.compile(r"[A-Za-z0-9._~+/=:@-]{1,128}")
_ID_BYTES = 8

_current: ContextVar[tuple[dict[str, Any], Any] | None] = ContextVar("request", default=None)


def name_generation(master: int, number: int) -> str:
    """Return the name of the workers that the master with this pid has started in its start (1), or a reload."""
    return f"{master}.{number}"


def enter(environ: dict[str, Any], request: Any) -> None:
    """Begin the answer to gunicorn's `request`, which the application knows as `environ`."""
    _current.set((environ, request))


def leave() -> None:
    """End the answer, if one was begun."""
    _current.set(None)


def environ() -> dict[str, Any] | None:
    """Return the environ of the request that is being answered; None between requests."""
    current = _current.get()
    return current[0] if current else None


def request_id() -> str | None:
    """Return the id of the request that is being answered; None between requests."""
    current = _current.get()
    return id_of(*current) if current else None


def id_of(environ: dict[str, Any], request: Any) -> str:
    """Return the id of gunicorn's `request`: X-Request-Id from a peer whose forwarding headers
    gunicorn trusts (``forwarded_allow_ips``), otherwise a random one."""
    known = environ.get(REQUEST_ID)
    if known is None:
        sent = environ.get("HTTP_X_REQUEST_ID", "")
        is_taken = _ACCEPTABLE.fullmatch(sent) and request._peer_is_trusted_proxy()
        known = environ[REQUEST_ID] = sent if is_taken else secrets.token_hex(_ID_BYTES)
    return str(known)
