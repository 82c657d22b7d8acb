"""gunicorn's gevent worker under systemd: a greenlet for each connection."""

from __future__ import annotations

import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from functools import partial
from types import FrameType
from typing import Any

import gevent
import gevent.socket
from gevent import monkey
from gevent.event import Event
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn import http, util
from gunicorn.sock import ssl_context
from gunicorn.workers import ggevent
from gunicorn.workers.base import Worker

from flask_socketact.handover import mailbox
from flask_socketact.http import request_body
from flask_socketact.http.client_socket import ClientSocket
from flask_socketact.linux import descriptors
from flask_socketact.workers import gevent_child, gevent_farewell
from flask_socketact.workers.base import BaseWorker, listener_name
from flask_socketact.workers.child import close_descriptor
from flask_socketact.workers.drain import DRAIN_POLL, LINGER
from flask_socketact.workers.gevent_client import Client, end_input, wait_for_close
from flask_socketact.workers.gevent_mail import MailReader
from flask_socketact.workers.gevent_server import Server, drain_without_memory
from flask_socketact.workers.gunicorn_base import CarriedClient, GunicornMixin, Listener

BODY_REST_TIMEOUT = 5.0  #: for what the application did not read, in seconds (as in gunicorn's)
#: The connection that this greenlet serves.
_client: ContextVar[Any] = ContextVar("client")


class GeventWorker(GunicornMixin, BaseWorker, ggevent.GeventWorker):
    """Greenlets: ``-k flask_socketact.workers.gevent.GeventWorker`` (extra ``[gevent]``).

    Unlike gunicorn's, it hands its connections over in a drain, drains when its master has died, and exits when done.
    """

    @staticmethod
    def patch_before_load() -> None:
        """Patch the standard library in a loader, before it loads the application."""
        monkey.patch_all()

    def patch(self) -> None:
        names = [listener_name(listener) for listener in self.sockets]
        super().patch()  # replaces the listeners with gevent's sockets, without names
        gevent_child.notice_children()
        ClientSocket.kind = gevent.socket.socket
        self._listeners = [
            Listener(name, listener.getsockname()) for name, listener in zip(names, self.sockets, strict=True)
        ]
        self._tls: ssl.SSLContext | None = None
        self._busy: dict[Any, bool] = {}  # whether a request is in flight, for each connection
        self._servers: list[StreamServer] = []
        self._mail_reader = MailReader(self)
        self._next_log = 0.0  # of a shortage of descriptors
        self._is_killing = False  # greenlets, because the drain time has expired
        self._wakeup_main = Event()

    def named_listeners(self) -> list[tuple[str | None, Any]]:
        return [(origin.fdname, listener) for origin, listener in zip(self._listeners, self.sockets, strict=True)]

    def notify(self) -> None:
        Worker.notify(self)  # not gevent's, which exits at once when the master has died
        self.reopen_files()
        self.beat()
        if not self.relayed.check_master():
            self._wakeup_main.set()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        super().handle_exit(sig, frame)
        self._wakeup_main.set()

    def handle_usr1(self, sig: int, frame: FrameType | None) -> None:
        super().handle_usr1(sig, frame)
        gevent.spawn(self.reopen_files)  # in the next turn of gevent's loop

    def handle(self, listener: Any, client: Any, address: Any) -> None:
        if not isinstance(client, Client) and self.carrier.pass_on(client, listener.fdname):
            return
        if self._tls:
            try:
                client = self._tls.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
            except OSError as error:
                self.log.debug("Closing connection. %s", error)
                return
        elif not isinstance(client, Client):
            client = Client(descriptors.above_streams(client.detach()), listener.fdname)
        self._busy[client] = False
        _client.set(client)
        try:
            super().handle(listener, client, address)
        finally:
            del self._busy[client]

    def handle_request(self, listener: Any, request: Any, client: Any, address: Any) -> None:
        """Serve a request. In a drain, hand the connection over afterwards.

        :raises StopIteration: the connection was handed over, or must be closed.
        """
        if not isinstance(client, Client):
            super().handle_request(listener, request, client, address)
            return
        if client.served and request.req_number == 1:  # by another worker
            request.req_number += 1
        try:
            super().handle_request(listener, request, client, address)
            if not request_body.is_read(request) and not self._skip_body(request, client, address):
                raise StopIteration  # noqa: TRY301 (as gunicorn does to close a connection)
        except StopIteration:
            if not request_body.is_read(request):
                self._wait_for_close(client, is_sending=True)
            elif any(name == "UPGRADE" for name, _ in request.headers):
                self._wait_for_close(client, is_sending=False)  # a WebSocket has ended
            raise
        client.end_request(bytes(request.unreader.buf.getvalue()))
        if self.carrier.is_carrying and self._is_portable and not self._is_killing:
            self.carrier.carry([client])
            if client.was_handed_over:
                raise StopIteration

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        super().handle_error(req, client, addr, exc)
        if isinstance(client, Client):
            self._wait_for_close(client, is_sending=False)

    def _wait_for_close(self, client: Client, *, is_sending: bool) -> None:
        wait_for_close(client, self.cfg.timeout, self.is_draining, is_sending=is_sending)

    @contextmanager
    def timeout_ctx(self) -> Iterator[None]:
        """Limit the time for headers. A client that has begun to send them gets 408."""
        timeout = gevent.Timeout(self.cfg.keepalive)
        try:
            with timeout:
                yield
        except gevent.Timeout as error:
            if error is not timeout:
                raise
            client = _client.get()
            if isinstance(client, Client) and not client.is_idle:
                with suppress(OSError):
                    util.write_error(client, 408, "Request Timeout", "")

    def _skip_body(self, request: Any, client: Client, address: Any) -> bool:
        """Discard the rest of the body; return whether its end was reached."""
        parser = http.get_parser(self.cfg, client, address)
        parser.mesg, parser.unreader = request, request.unreader
        return request_body.discard(parser, request, BODY_REST_TIMEOUT)

    def handle_http2_request(self, listener: Any, request: Any, client: Any, *arguments: Any) -> Any:
        with self.serving(client):
            return super().handle_http2_request(listener, request, client, *arguments)

    @contextmanager
    def serving(self, client: Any) -> Iterator[None]:
        self._busy[client] = True
        try:
            with super().serving(client):
                yield
        finally:
            self._busy[client] = False

    def run(self) -> None:
        if self.cfg.is_ssl:
            self._tls = ssl_context(self.cfg)
            # From Python 3.12 on, end_input() would otherwise be an error, which is reported to the client.
            self._tls.options |= getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", ssl.Options(0))
            # The handshake is in handle(), so that the drain knows the connection, and errors are handled.
            self.cfg.set("do_handshake_on_connect", False)
        self._servers = servers = [
            self._serve(listener, origin) for listener, origin in zip(self.sockets, self._listeners, strict=True)
        ]
        self._is_portable = self._tls is None and self.cfg.proxy_protocol == "off" and self.cfg.http2_cleartext == "off"
        drain_without_memory(self)
        if self.mailbox:
            self.read_mailbox(self.mailbox)
        while self.alive:
            try:
                self.notify()
                self._wakeup_main.wait(self.heartbeat)
            except BaseException:  # noqa: BLE001 (no error ends the worker)
                self.note_failure()
        self.slot.begin_drain()
        for server in servers:
            server.close()
        self.carrier.begin()
        self.drain.announce()  # now clients that connect again get another worker
        self._drain([server.pool for server in servers])
        gevent_farewell.close_all(self.upgrades, self.drain.close_status)
        self._is_killing = True
        for server in servers:
            server.stop(timeout=1)

    def keeps_connections(self) -> bool:
        return bool(self._is_portable and self.cfg.keepalive and self.carrier.can_carry())

    def offering_websocket(self, environ: dict[str, Any]) -> AbstractContextManager[None]:
        if sys.modules.get("geventwebsocket") is None or environ.get("HTTP_UPGRADE", "").lower() != "websocket":
            return nullcontext()
        from flask_socketact.workers import gevent_websocket

        return gevent_websocket.offered(environ, lambda: self.drain.close_status)

    def has_raised(self, error: BaseException) -> bool:
        return self._is_killing and isinstance(error, gevent.GreenletExit)

    def close_in_child(self) -> None:
        for exchange in self.upgrades:
            exchange.lent_socket.close_in_child()
        for sock in (*self.sockets, *self._busy):  # by number: gevent's close() needs the hub
            close_descriptor(sock.fileno())
        self._parents_hub = gevent_child.discard_hub()

    def _serve(self, listener: Any, origin: Listener) -> StreamServer:
        listener.setblocking(True)
        server = Server(listener, handle=partial(self.handle, origin), spawn=Pool(self.worker_connections))
        server.make_room = self._make_room
        if self.cfg.workers > 1:
            server.max_accept = 1
        server.start()
        return server

    def _drain(self, pools: list[Pool]) -> None:
        """Wait until the work is done. Hand idle connections over, or close them after the linger time.

        The pools know all connections: a greenlet of a new one may not have begun yet.
        """
        lingered_at = time.monotonic() + LINGER
        while self._is_needed(pools) and (now := time.monotonic()) < self.drain.deadline:
            try:
                self._continue_drain(lingered=now >= lingered_at)
            except BaseException:  # noqa: BLE001 (as in run())
                self.note_failure()

    def _continue_drain(self, *, lingered: bool) -> None:
        self.notify()
        gevent_farewell.end_unanswered(self.upgrades)
        waiting = [client for client, busy in self._busy.items() if not busy]
        if self.carrier.is_carrying and self._is_portable:
            self.carrier.carry([client for client in waiting if isinstance(client, Client)])
        elif lingered:
            for client in waiting:
                if not isinstance(client, Client) or client.is_idle:  # with TLS it is unknown
                    end_input(client)
        gevent.sleep(DRAIN_POLL)

    def _make_room(self) -> None:
        """Close the connections that have been idle for longest, because descriptors are short."""
        now = time.monotonic()
        if now >= self._next_log:
            self._next_log = now + descriptors.LOG_INTERVAL
            reason = descriptors.TOO_MANY_OPEN_FILES
            self.log.error("Cannot accept a connection (%s): raise LimitNOFILE= of the service", reason)
        idle = [client for client, busy in self._busy.items() if not busy and isinstance(client, Client)]
        idle = [client for client in idle if client.is_idle and now - client.free_since > descriptors.CLOSE_IDLE_AFTER]
        for client in sorted(idle, key=lambda client: client.free_since)[: descriptors.CLOSE_IDLE_BATCH]:
            end_input(client)

    def _is_needed(self, pools: list[Pool]) -> bool:
        """Return whether a request, a connection or (in a stop) mail is left: the last worker empties the mailbox."""
        return any(pools) or self._mail_reader.is_reading or (self.board.stopping and self.carrier.has_mail())

    # The mailbox.

    def read_mailbox(self, box: mailbox.Mailbox) -> None:
        self._mail_reader.start(box)

    def leave_mailbox(self, box: mailbox.Mailbox) -> None:
        """Do nothing: the greenlet that reads it checks ``carrier.is_carrying``."""

    def close_copy(self, connection: Client) -> None:
        connection.close_copy()

    @property
    def is_full(self) -> bool:
        """Whether this worker has as many connections as it may."""
        return len(self._busy) >= int(self.worker_connections)

    def serve_carried(self, client: CarriedClient) -> None:
        """Serve a connection that another worker has handed over."""
        fd = descriptors.above_streams(client.connection.detach())
        origin = client.origin
        ours = Client(fd, origin.listener, served=origin.served, unread=origin.unread)
        listener, server = Listener(origin.listener, client.server_address), self._servers[0]
        for known, candidate in zip(self._listeners, self._servers, strict=True):
            if client.came_through(known):
                listener, server = known, candidate
        server.pool.spawn(self.handle, listener, ours, client.address)
