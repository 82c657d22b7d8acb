"""Connections that have changed to another protocol, as WebSockets do. No timeout of requests applies to them."""

from __future__ import annotations

import time

from gunicorn.http.message import Request

from flask_socketact import env
from flask_socketact.http.client_socket import ClientSocket, TLSClientSocket
from flask_socketact.http.connection import Connection
from flask_socketact.http.websocket import FAREWELL
from flask_socketact.shared.slot import Field
from flask_socketact.workers.base import BaseWorker
from flask_socketact.workers.drain import DRAIN_POLL
from flask_socketact.workers.lasting import LastingRequests


def asks_for_upgrade(request: Request) -> bool:
    """Return whether a client asks for another protocol (RFC 9110, section 7.8): WebSocket, in general."""
    for name, value in request.headers:
        if name == "UPGRADE":
            return value.lower() != "h2c" and request.version >= (1, 1) and _has_connection_option(request, "upgrade")
    return False


def _has_connection_option(request: Request, option: str) -> bool:
    values = [value for name, value in request.headers if name == "CONNECTION"]
    return any(option == word.strip().lower() for value in values for word in value.split(","))


class Upgrades(LastingRequests):
    """Those of one worker.

    A request for one is like any other until the application uses the socket: only then its thread leaves the pool. So
    a client cannot have more than ``threads`` views run at once by asking for upgrades.
    """

    def __init__(self, worker: BaseWorker) -> None:
        super().__init__(worker, "WebSocket", env.MAX_WEBSOCKETS, env.max_websockets(), Field.WEBSOCKETS)

    def end_unanswered(self) -> None:
        """End the connections whose clients have not answered the application's close frame. Called in a drain."""
        now = time.monotonic()
        for _, lent_socket in self._open():
            lent_socket.end_unanswered(now)

    def close_all(self) -> None:
        """Tell the clients that are left that the worker exits: a close frame where one may begin, and FIN."""
        left = {}
        for connection, lent_socket in self._open():
            lent_socket.send_close(self.worker.drain.close_status)
            left[connection] = lent_socket
        deadline = time.monotonic() + FAREWELL
        while left and time.monotonic() < deadline:
            time.sleep(DRAIN_POLL)
            left = {c: lent for c, lent in self._open() if c in left and not c.is_closed_by_client()}

    def _open(self) -> list[tuple[Connection, ClientSocket | TLSClientSocket]]:
        """Return the connections, and the application's sockets."""
        connections = [thread.connection for thread in list(self.threads)]
        lent = [(connection, connection.lent_socket) for connection in connections if connection is not None]
        return [(connection, theirs) for connection, theirs in lent if theirs is not None]
