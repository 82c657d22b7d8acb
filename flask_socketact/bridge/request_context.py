"""The request that this thread or greenlet answers: what is logged meanwhile bears its id.

Setting it costs a fraction of a microsecond; an id is made when somebody asks for it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

from flask_socketact.bridge import keys

#: Of this process: set by the master, and after the fork.
generation: str | None = None

#: What is taken from X-Request-Id: it comes back in logs and, perhaps, in answers and other services' requests.
_ACCEPTABLE = re.compile(r"[A-Za-z0-9._~+/=:@-]{1,128}")
_ID_BITS = 64

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
    """Whether forwarding headers of the request's peer count; nobody's do with a server that is not ours."""
    answer: Callable[[], bool] | None = environ.get(keys.TRUSTS_PEER)
    return answer is not None and answer()
