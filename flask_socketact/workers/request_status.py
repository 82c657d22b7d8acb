"""The status that a request is counted with."""

from __future__ import annotations

from typing import Any

#: The status of a request after which the connection speaks another protocol.
SWITCHED = "101 Switching Protocols"


def status_of(response: Any, failure: BaseException | None, *, is_client_error: bool) -> str | None:
    """Return the status to count a request with; None if the application failed.

    `failure` is the exception that ended it. `is_client_error`: the client disconnected, or sent a malformed body.
    """
    status: str | None = response and response.status
    if isinstance(failure, StopIteration):  # how an application ends a connection that it has served itself
        return status or SWITCHED
    if is_client_error:
        return status if status and status < "5" else "400 Bad Request"
    return status if failure is None else None
