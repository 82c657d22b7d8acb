"""``wsgi.websocket`` for applications that use gevent-websocket, which expects pywsgi as the server."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from geventwebsocket.exceptions import WebSocketError
from geventwebsocket.handler import WebSocketHandler

from flask_socketact.bridge import drain_calls
from flask_socketact.http import request_body


class LazyWebSocket:
    """A WebSocket of gevent-websocket. The handshake is completed when the application uses it.

    So an application can also use simple-websocket, which has its own handshake.
    """

    def __init__(self, environ: dict[str, Any], close_status: Callable[[], int]) -> None:
        """`close_status` returns that of its close frame in a drain."""
        self._environ = environ
        self._close_status = close_status
        self._opened: Any = None
        self._at_drain: drain_calls.Call | None = None

    def __getattr__(self, name: str) -> Any:
        if self._opened is None:
            self._opened = _Handshake(self._environ).complete()
            lent_socket = self._environ["gunicorn.socket"]
            self._at_drain = drain_calls.add(lambda: lent_socket.close_when_possible(self._close_status()))
        return getattr(self._opened, name)

    def end(self) -> None:
        """Close it, if the application has not."""
        if self._at_drain is not None:
            drain_calls.discard(self._at_drain)
        if self._opened is not None and not self._opened.closed:
            self._opened.close()
        self._environ = {}  # break the reference cycle


class _Handshake(WebSocketHandler):
    """gevent-websocket's code for the handshake, on our connection."""

    def __init__(self, environ: dict[str, Any]) -> None:
        self.environ = environ
        self.socket = environ["gunicorn.socket"]
        self.application = None
        self.server = SimpleNamespace(application=None, logger=logging.getLogger("geventwebsocket"))
        self._refusal = ""

    def complete(self) -> Any:
        """Respond with 101, and return the WebSocket.

        :raises WebSocketError: the request is not a valid handshake.
        """
        self.upgrade_connection()
        if self._refusal:
            raise request_body.as_bad_request(WebSocketError(self._refusal))
        return self.websocket

    @property
    def rfile(self) -> Any:
        """What is read by, once the handshake is valid."""
        return self.socket.makefile("rb")

    def start_response(self, status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> None:  # noqa: ARG002
        if not status.startswith("101"):
            self._refusal = status
            return
        lines = [f"HTTP/1.1 {status}", *(f"{name}: {value}" for name, value in headers), "", ""]
        self.socket.sendall("\r\n".join(lines).encode("latin-1"))


@contextmanager
def offered(environ: dict[str, Any], close_status: Callable[[], int]) -> Iterator[None]:
    """Offer ``wsgi.websocket`` in this block. When a drain begins, its client gets a close frame."""
    websocket = environ["wsgi.websocket"] = LazyWebSocket(environ, close_status)
    try:
        yield
    finally:
        websocket.end()
