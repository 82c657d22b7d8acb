"""gunicorn's gevent worker as a service of systemd: a greenlet for each connection."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from functools import partial
from types import FrameType
from typing import Any

import gevent
from gevent.event import Event
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn.sock import ssl_context
from gunicorn.workers import ggevent
from gunicorn.workers.base import Worker

from flask_socketact.scoreboard import Field
from flask_socketact.workers.classic import ClassicWorker
from flask_socketact.workers.lifecycle import LINGER

HEARTBEAT = 1.0  #: seconds
#: How often a worker that drains looks at what is left, in seconds.
DRAIN_POLL = 0.05


class GeventWorker(ClassicWorker, ggevent.GeventWorker):
    """Greenlets: ``-k flask_socketact.workers.gevent.GeventWorker`` (extra ``[gevent]``).

    Other than gunicorn's it drains when its master has died, ends idle connections after a
    linger time, and leaves as soon as nothing is left.
    """

    def patch(self) -> None:
        names = [super(GeventWorker, self).listener_name(listener) for listener in self.sockets]
        super().patch()  # makes other objects of the listeners
        self._names = {listener.fileno(): name for listener, name in zip(self.sockets, names, strict=True)}
        self._busy: dict[Any, bool] = {}  # connections; whether a request is being answered
        self._leave = Event()

    def listener_name(self, listener: Any) -> str | None:
        return self._names.get(listener.fileno())

    def notify(self) -> None:
        Worker.notify(self)  # not gevent's, which leaves at once when the master has died
        if not self.is_parent_alive():
            self._leave.set()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._leave.set()

    def handle(self, listener: Any, client: Any, address: Any) -> None:
        self._busy[client] = False
        try:
            super().handle(listener, client, address)
        finally:
            del self._busy[client]

    def handle_request(self, listener: Any, request: Any, client: Any, address: Any) -> Any:
        self._busy[client] = True
        try:
            return super().handle_request(listener, request, client, address)
        finally:
            self._busy[client] = False
            if not self.alive:  # max_requests
                self._leave.set()

    def run(self) -> None:
        servers = [self._serve(listener) for listener in self.sockets]
        while self.alive:
            self.notify()
            self._leave.wait(HEARTBEAT)
        self.slot[Field.DRAINING] = 1
        for server in servers:
            server.close()
        self._drain()
        for server in servers:
            server.stop(timeout=1)

    def _serve(self, listener: Any) -> StreamServer:
        listener.setblocking(True)
        tls = {"ssl_context": ssl_context(self.cfg)} if self.cfg.is_ssl else {}
        server = StreamServer(
            listener, handle=partial(self.handle, listener), spawn=Pool(self.worker_connections), **tls
        )
        if self.cfg.workers > 1:
            server.max_accept = 1
        server.start()
        return server

    def _drain(self) -> None:
        """Wait until nothing is left; after the linger time, end connections that wait for a request."""
        began = time.monotonic()
        while self._busy and time.monotonic() - began < self.cfg.graceful_timeout:
            self.notify()
            if time.monotonic() - began >= LINGER:
                for client in [client for client, busy in self._busy.items() if not busy]:
                    with suppress(OSError):  # it has gone by itself
                        client.shutdown(socket.SHUT_RD)
            gevent.sleep(DRAIN_POLL)
        if self._busy:
            self.log.warning("The drain time is over, with %s connections left (pid: %s)", len(self._busy), self.pid)
