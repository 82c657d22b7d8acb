"""What becomes of a request that an application has answered, or failed to."""

from __future__ import annotations

from typing import Any


def status_of(response: Any, failure: BaseException | None, *, is_client_error: bool) -> str | None:
    """Return the status that a request counts with which has ended, with `failure` if it has failed; None: it failed by
    the application's fault. `is_client_error`: the client has broken off, or has sent a body that is malformed."""
    status: str | None = response and response.status
    if isinstance(failure, StopIteration):  # how applications end a connection that they have served themselves
        return status or "101 Switching Protocols"
    if is_client_error:
        return status if status and status < "5" else "400 Bad Request"
    return status if failure is None else None
