"""Requests of monitors to the extension's own endpoints: no release is judged by them.

HAProxy asks for ``/readyz`` every second, and Prometheus for ``/metrics``. The worker counts them as it counts all
requests; here they are counted a second time, so that other requests cost nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial, wraps
from typing import Any

from flask import Response, request

from flask_socketact.bridge import keys, server_info
from flask_socketact.shared.slot import DEPLOY_AGENT, Field

_FAILED = "5"
_lock = threading.Lock()


def left_out(view: Callable[[], Response]) -> Callable[[], Response]:
    """Return a view whose requests are left out of those by which a release is judged."""

    @wraps(view)
    def counted() -> Response:
        environ = request.environ
        if environ.get("HTTP_USER_AGENT") != DEPLOY_AGENT:
            environ[keys.OBSERVE] = partial(_count, environ.get(keys.OBSERVE))
        return view()

    return counted


def _count(
    observe: Callable[[dict[str, Any], str | None, float], None] | None,
    environ: dict[str, Any],
    status: str | None,
    seconds: float,
) -> None:
    """Count a response that has been sent, then call the function that :data:`keys.OBSERVE` was before."""
    server = server_info.server
    if server is not None:
        with _lock:
            server.slot[Field.MONITORED] += 1
            server.slot[Field.MONITORED_ERRORS] += status is None or status >= _FAILED
    if observe is not None:
        observe(environ, status, seconds)
