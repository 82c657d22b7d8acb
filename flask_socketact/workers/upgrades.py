"""Connections that have changed to another protocol, as WebSockets do: each has a thread of its own.

They last for hours, so they must not occupy the request threads; and no timeout of requests applies to them.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from gunicorn import util
from gunicorn.http.message import Request

from flask_socketact import env
from flask_socketact.http.connection import Connection
from flask_socketact.shared.scoreboard import Field

if TYPE_CHECKING:
    from flask_socketact.workers.thread import ThreadWorker

#: The header as clients send it: RFC 6455, section 4.1, and older ones. Others are served by the request threads.
_WEBSOCKET = (("UPGRADE", "websocket"), ("UPGRADE", "WebSocket"))
#: A close frame (RFC 6455, section 5.5.1) with status 1012, service restart, or 1001, going away.
_CLOSE = {False: b"\x88\x02\x03\xf4", True: b"\x88\x02\x03\xe9"}


def is_websocket(request: Request) -> bool:
    """Return whether a client asks for the WebSocket protocol."""
    headers = request.headers
    return _WEBSOCKET[0] in headers or _WEBSOCKET[1] in headers


class Upgrades:
    """The threads of one worker for such connections."""

    def __init__(self, worker: ThreadWorker, serve: Callable[[Connection], None]) -> None:
        """`serve` serves a connection, and returns it to the loop."""
        self._worker = worker
        self._serve = serve
        self._limit = env.max_websockets()
        self._connections: set[Connection] = set()
        self._lock = threading.Lock()

    def admit(self, connection: Connection) -> bool:
        """Return whether there is room for one more; respond with 503 otherwise."""
        with self._lock:
            if len(self._connections) < self._limit:
                self._connections.add(connection)
                self._count()
                return True
        self._worker.log.warning("A WebSocket was refused with 503: %s = %s are open", env.MAX_WEBSOCKETS, self._limit)
        with suppress(OSError):
            util.write_error(connection.sock, 503, "Service Unavailable", "too many WebSockets")
        return False

    def start(self, connection: Connection) -> None:
        """Serve an admitted connection in a new thread.

        :raises RuntimeError: no thread can be started.
        """
        try:
            threading.Thread(target=self._run, args=(connection,), name="websocket", daemon=True).start()
        except RuntimeError:
            self._forget(connection)
            raise

    def close_all(self) -> None:
        """Tell the clients that are left that the worker exits: a close frame, and FIN."""
        with self._lock:
            connections = [c for c in self._connections if c.lent_socket is not None and c.lent_socket.is_used]
        for connection in connections:
            with suppress(OSError):  # the client has disconnected, or does not read
                connection.send_now(_CLOSE[self._worker.board.stopping])
                connection.sock.shutdown(socket.SHUT_WR)

    def _run(self, connection: Connection) -> None:
        try:
            self._serve(connection)
        finally:
            self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        with self._lock:
            self._connections.discard(connection)
            self._count()

    def _count(self) -> None:
        self._worker.slot[Field.WEBSOCKETS] = len(self._connections)
