"""The request that this thread or greenlet answers: what is logged meanwhile bears its id.

Setting it costs a fraction of a microsecond; an id is made when somebody asks for it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

#: Of this process: set by the master, and after the fork.
generation: str | None = None

#: Environ key of the request's id; absent until somebody has asked.
REQUEST_ID = "socketact.request_id"
#: What is taken from X-Request-Id: it comes back in logs and, perhaps, in answers and other services' requests.
_ACCEPTABLE = re.compile(r"[A-Za-z0-9._~+/=:@-]{1,128}")
_ID_BITS = 64

#: Environ keys by which an application asks for something: the name of the header in which the answer has the request's
#: id; and who hears, when the answer has been sent, of environ, status (as in ``200 OK``; None: there was none, it has
#: failed) and how long it took, in seconds.
ID_HEADER = "socketact.id_header"
OBSERVE = "socketact.observe"
#: Environ key: Flask's request, for who hears. (What werkzeug has there is gone when the answer is sent.)
REQUEST = "socketact.request"
#: Environ keys, the worker's: ``FileDescriptorName=`` of the listener; whether the request is the first of its
#: connection; since when that is free, after the answer before (CLOCK_MONOTONIC, seconds; 0.0: unknown).
LISTENER = "socketact.listener"
FIRST = "socketact.first"
FREE_SINCE = "socketact.free_since"
#: Environ key: whether forwarding headers of the peer count (``forwarded_allow_ips``), as a function.
TRUSTS_PEER = "socketact.trusts_peer"

_current: ContextVar[dict[str, Any] | None] = ContextVar("request", default=None)


def name_generation(master: int, number: int) -> str:
    """Return the name of the workers that the master with this pid has started in its start (1), or a reload."""
    return f"{master}.{number}"


def enter(environ: dict[str, Any]) -> None:
    """Begin the answer to a request, which the application knows as `environ`."""
    _current.set(environ)


def leave() -> None:
    """End the answer, if one was begun."""
    _current.set(None)


def environ() -> dict[str, Any] | None:
    """Return the environ of the request that is being answered; None between requests."""
    return _current.get()


def request_id() -> str | None:
    """Return the id of the request that is being answered; None between requests."""
    current = _current.get()
    return id_of(current) if current is not None else None


def id_of(environ: dict[str, Any]) -> str:
    """Return the id of the request that `environ` describes: X-Request-Id from a peer whose
    forwarding headers count, otherwise a random one."""
    known: str | None = environ.get(REQUEST_ID)
    if known is None:
        sent = environ.get("HTTP_X_REQUEST_ID")
        if sent and trusts_peer(environ) and _ACCEPTABLE.fullmatch(sent):
            known = str(sent)
        else:
            known = f"{random.getrandbits(_ID_BITS):016x}"
        environ[REQUEST_ID] = known
    return known


def trusts_peer(environ: dict[str, Any]) -> bool:
    """Whether forwarding headers of the request's peer count; nobody's do with a server that is not ours."""
    answer: Callable[[], bool] | None = environ.get(TRUSTS_PEER)
    return answer is not None and answer()
