"""Connections that have changed to another protocol, as WebSockets do: each has a thread of its own.

They last for hours, so they must not occupy the request threads; and no timeout of requests applies to them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from gunicorn import util
from gunicorn.http.message import Request

from flask_socketact import env
from flask_socketact.http.client_socket import ClientSocket, TLSClientSocket
from flask_socketact.http.connection import Connection
from flask_socketact.http.websocket import ANSWER_TIMEOUT, FAREWELL, GOING_AWAY, SERVICE_RESTART
from flask_socketact.shared.scoreboard import Field
from flask_socketact.workers.drain import DRAIN_POLL
from flask_socketact.workers.streams import RequestThread

if TYPE_CHECKING:
    from flask_socketact.workers.thread import ThreadWorker


def asks_for_upgrade(request: Request) -> bool:
    """Return whether a client asks for another protocol (RFC 9110, section 7.8): WebSocket, in general."""
    for name, value in request.headers:
        if name == "UPGRADE":
            return value.lower() != "h2c" and request.version >= (1, 1) and _has_connection_option(request, "upgrade")
    return False


def _has_connection_option(request: Request, option: str) -> bool:
    values = [value for name, value in request.headers if name == "CONNECTION"]
    return any(option == word.strip().lower() for value in values for word in value.split(","))


class Upgrades:
    """The threads of one worker for such connections."""

    def __init__(self, worker: ThreadWorker, serve: Callable[[Connection], None]) -> None:
        """`serve` serves a connection, and returns it to the loop."""
        self._worker = worker
        self._serve = serve
        self._limit = env.max_websockets()
        self._threads: dict[Connection, RequestThread] = {}
        self._lock = threading.Lock()

    def admit(self, connection: Connection) -> bool:
        """Return whether there is room for one more; respond with 503 otherwise."""
        with self._lock:
            if len(self._threads) < self._limit:
                self._threads[connection] = RequestThread()
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
        thread = self._threads[connection]
        thread.handle = threading.Thread(target=self._run, args=(connection,), name="websocket", daemon=True)
        thread.connection = connection
        try:
            thread.handle.start()
        except RuntimeError:
            self._forget(connection)
            raise

    def end_unanswered(self) -> None:
        """End the connections whose clients have not answered the application's close frame. Called in a drain."""
        now = time.monotonic()
        for _, lent_socket in self._used():
            frames = lent_socket.frames
            if frames is not None and frames.closed_at is not None and now - frames.closed_at > ANSWER_TIMEOUT:
                lent_socket.end()

    def close_all(self) -> None:
        """Tell the clients that are left that the worker exits: a close frame where one may begin, and FIN."""
        left = {}
        for connection, lent_socket in self._used():
            lent_socket.send_close(GOING_AWAY if self._worker.board.stopping else SERVICE_RESTART)
            left[connection] = lent_socket
        deadline = time.monotonic() + FAREWELL
        while left and time.monotonic() < deadline:
            time.sleep(DRAIN_POLL)
            left = {c: lent for c, lent in self._used() if c in left and not c.is_closed_by_client()}

    def _used(self) -> list[tuple[Connection, ClientSocket | TLSClientSocket]]:
        """Return the connections on which the application speaks another protocol, and its sockets."""
        with self._lock:
            lent = [(connection, connection.lent_socket) for connection in self._threads]
        return [(connection, theirs) for connection, theirs in lent if theirs is not None and theirs.is_used]

    def requests(self) -> list[RequestThread]:
        """Return the threads whose applications have not used the socket: their requests are like any other."""
        with self._lock:
            threads = list(self._threads.items())
        lent = [(thread, connection.lent_socket) for connection, thread in threads]
        return [thread for thread, theirs in lent if theirs is not None and not theirs.is_used]

    def _run(self, connection: Connection) -> None:
        try:
            self._serve(connection)
        finally:
            self._forget(connection)

    def _forget(self, connection: Connection) -> None:
        with self._lock:
            self._threads.pop(connection, None)
            self._count()

    def _count(self) -> None:
        self._worker.slot[Field.WEBSOCKETS] = len(self._threads)
