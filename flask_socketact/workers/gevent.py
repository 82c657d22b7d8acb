"""gunicorn's gevent worker as a service of systemd: a greenlet for each connection."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any

import gevent
import gevent.hub
from gevent import monkey
from gevent.event import Event
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn.sock import ssl_context
from gunicorn.workers import ggevent
from gunicorn.workers.base import Worker

from flask_socketact.workers.classic import ClassicWorker
from flask_socketact.workers.lifecycle import DRAIN_POLL, HEARTBEAT, LINGER, close_descriptor, listener_name


@dataclass(frozen=True)
class Origin:
    """What a connection needs to know of its listener, which is closed in a drain, perhaps before it is asked."""

    fdname: str | None
    address: Any

    def getsockname(self) -> Any:
        return self.address


class GeventWorker(ClassicWorker, ggevent.GeventWorker):
    """Greenlets: ``-k flask_socketact.workers.gevent.GeventWorker`` (extra ``[gevent]``).

    Other than gunicorn's it drains when its master has died, ends idle connections after a
    linger time, and leaves as soon as nothing is left.
    """

    def patch(self) -> None:
        names = [listener_name(listener) for listener in self.sockets]
        super().patch()  # makes other objects of the listeners
        self._origins = [
            Origin(name, listener.getsockname()) for name, listener in zip(names, self.sockets, strict=True)
        ]
        self._tls: ssl.SSLContext | None = None
        self._busy: dict[Any, bool] = {}  # connections; whether a request is being answered
        self._servers: list[StreamServer] = []
        self._is_killing = False  # greenlets, because the drain time is over
        self._leave = Event()

    def named_listeners(self) -> list[tuple[str | None, Any]]:
        return [(origin.fdname, listener) for origin, listener in zip(self._origins, self.sockets, strict=True)]

    def notify(self) -> None:
        Worker.notify(self)  # not gevent's, which leaves at once when the master has died
        self.reopen_files()
        self.beat()
        if not self.is_parent_alive():
            self._leave.set()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._leave.set()

    def handle_usr1(self, sig: int, frame: FrameType | None) -> None:
        super().handle_usr1(sig, frame)
        gevent.spawn(self.reopen_files)  # in the loop's next turn, not after its pause

    def handle(self, listener: Any, client: Any, address: Any) -> None:
        if self._tls:
            try:
                client = self._tls.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
            except OSError as error:
                self.log.debug("Closing connection. %s", error)
                return
        self._busy[client] = False
        try:
            super().handle(listener, client, address)
        finally:
            del self._busy[client]

    def handle_http2_request(self, listener: Any, request: Any, client: Any, *arguments: Any) -> Any:
        with self.answering(client):
            return super().handle_http2_request(listener, request, client, *arguments)

    @contextmanager
    def answering(self, client: Any) -> Iterator[None]:
        self._busy[client] = True
        try:
            with super().answering(client):
                yield
        finally:
            self._busy[client] = False

    def run(self) -> None:
        if self.cfg.is_ssl:
            self._tls = ssl_context(self.cfg)
            # In handle(), which takes errors, and not before it, where the drain would not see the connection.
            self.cfg.set("do_handshake_on_connect", False)
        self._servers = servers = [
            self._serve(listener, origin) for listener, origin in zip(self.sockets, self._origins, strict=True)
        ]
        while self.alive:
            self.notify()
            self._leave.wait(HEARTBEAT)
        self.slot.begin_drain()
        self.begin_drain()
        for server in servers:
            server.close()
        self._drain([server.pool for server in servers])
        self._is_killing = True
        for server in servers:
            server.stop(timeout=1)

    def is_ending(self, error: BaseException) -> bool:
        return self._is_killing and isinstance(error, gevent.GreenletExit)

    def close_in_child(self) -> None:
        """Leave the hub to the parent, too: with it, the child would go on with the parent's greenlets. It is kept, as
        one that is collected is switched to once more."""
        for sock in (*self.sockets, *self._busy):  # by number: gevent's ask the hub when they are closed
            close_descriptor(sock.fileno())
        self._parents_hub = hub = gevent.get_hub()
        hub.loop.destroy()
        gevent.hub.set_loop(None)
        gevent.hub.set_hub(None)

    def _serve(self, listener: Any, origin: Origin) -> StreamServer:
        listener.setblocking(True)
        server = StreamServer(listener, handle=partial(self.handle, origin), spawn=Pool(self.worker_connections))
        if self.cfg.workers > 1:
            server.max_accept = 1
        server.start()
        return server

    def _drain(self, pools: list[Pool]) -> None:
        """Wait until nothing is left; after the linger time, end connections that wait for a request.

        What is left is in the pools: greenlets of connections just accepted have not begun yet.
        """
        began = time.monotonic()
        while any(pools) and time.monotonic() - began < self.cfg.graceful_timeout:
            self.notify()
            if time.monotonic() - began >= LINGER:
                for client in [client for client, busy in self._busy.items() if not busy]:
                    _end_input(client)
            gevent.sleep(DRAIN_POLL)


def _end_input(client: Any) -> None:
    """Let whoever reads from `client` read what has come, and then the end.

    gevent's own ``shutdown`` fails a read that waits, even if a request has come, and takes TLS off.
    """
    plain = monkey.get_original("socket", "socket")(fileno=client.fileno())
    try:
        with suppress(OSError):  # it has gone by itself
            plain.shutdown(socket.SHUT_RD)
    finally:
        plain.detach()
