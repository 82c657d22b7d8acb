"""How a connection is closed so that its client gets the whole response (RFC 9112, section 9.6), without a thread."""

from __future__ import annotations

import time

from flask_socketact.http.connection import Connection

#: How long we wait for the client's FIN after ours, in seconds. A client that is sending is waited for.
CLOSE_TIMEOUT = 2.0
#: How long such a client is waited for, in seconds: it may send for ever.
MAX_CLOSING = 3600.0


class Closing:
    """Waits for clients to close, and discards what they send.

    A client that is sending a body may read our response only afterwards. If we closed before, the kernel would send a
    reset, and the client would lose the response.
    """

    def __init__(self, timeout: float) -> None:
        """`timeout` is how long a client may send nothing in the middle of a body, in seconds; 0: no limit."""
        self._patience = timeout or MAX_CLOSING
        self._is_ending = False

    def begin(self, connection: Connection) -> bool:
        """Send FIN; return whether to wait for the client's."""
        if not connection.begin_close():
            return False
        now = time.monotonic()
        connection.closing_until = now + MAX_CLOSING
        connection.deadline = now + CLOSE_TIMEOUT
        if connection.has_more_body:
            self._wait_for_sender(connection, now)
        connection.forget_request()
        return True

    def is_over(self, connection: Connection) -> bool:
        """Discard what has arrived, and return whether the client has closed the connection."""
        if connection.is_closed_by_client():
            return True
        self._wait_for_sender(connection, time.monotonic())
        return False

    def end_soon(self) -> None:
        """Wait for no sender any more: the worker drains."""
        self._is_ending = True

    def _wait_for_sender(self, connection: Connection, now: float) -> None:
        if not self._is_ending:
            connection.deadline = min(now + self._patience, connection.closing_until)
