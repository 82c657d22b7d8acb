"""The connections of one worker, in one epoll: accept, wait for requests, hand over, close.

An unexpected error closes the connection that it came from, and nothing else.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from gunicorn import sock as gunicorn_sock

from flask_socketact import env
from flask_socketact.addresses import unmapped
from flask_socketact.errors import MailboxError
from flask_socketact.handover import mailbox
from flask_socketact.http.connection import Connection, NextRequest, State
from flask_socketact.http.settings_cache import Settings
from flask_socketact.http.tls import TLSConnection
from flask_socketact.linux import descriptors
from flask_socketact.shared.scoreboard import Field
from flask_socketact.workers.base import BaseWorker, listener_name
from flask_socketact.workers.drain import DRAIN_POLL

#: accept(2): somebody else was faster, the client has gone, or its connection has an error of its own.
_NOBODY_THERE = (
    *(errno.EAGAIN, errno.ECONNABORTED, errno.ENETDOWN, errno.EPROTO, errno.ENOPROTOOPT),
    *(errno.EHOSTDOWN, errno.ENONET, errno.EHOSTUNREACH, errno.EOPNOTSUPP, errno.ENETUNREACH),
)

#: How long a worker that has more connections than its siblings leaves the next one to them, in seconds.
YIELD_PAUSE = 0.001
#: So many more than a sibling are no reason to leave the next one to it ...
LEAD = 2
#: ... nor is this part more: with both workers busy each accepts only once in a turn of its loop, and a crowd
#: that comes at once would be taken in by threes.
LEAD_RATIO = 8
#: Accepted in a row, before those that we have get their turn.
ACCEPTS = 64
#: How long we wait for the client to close after us, in seconds.
CLOSE_TIMEOUT = 2.0
#: How often connections whose time is over are looked for, in seconds.
SWEEP = 1.0
#: Events taken from the kernel at once: what one thread has taken waits while it serves the first.
MAX_EVENTS = 64

_IN = select.EPOLLIN
#: One connection wakes one worker, not all of them (epoll_ctl(2)).
_IN_EXCLUSIVE = select.EPOLLIN | select.EPOLLEXCLUSIVE


class Loop:
    """Used by one thread at a time, the leader; the others call `rejoin` and the like with the `lock` held."""

    def __init__(self, worker: BaseWorker) -> None:
        self.cfg = cfg = Settings(worker.cfg)
        self._log = worker.log
        self.lock = threading.Lock()  #: of what is decided about connections that are not busy
        self.ready: deque[Connection] = deque()  #: something has come for them
        self.connections: set[Connection] = set()
        self._by_fd: dict[int, Connection] = {}  # what the epoll knows them by
        self._board = worker.board
        self._pass_on = worker.carrier.pass_on
        self._slot = worker.slot
        self._listeners = {listener.fileno(): listener for listener in worker.sockets}
        self._mail: dict[int, tuple[socket.socket, float]] = {}  # senders, and until when they may send
        self._header_timeout = env.header_timeout()
        self._context = _tls_context(cfg) if cfg.is_ssl else None
        self._epoll = select.epoll()
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wakeup, _IN)
        for listener in worker.sockets:
            listener.setblocking(False)
        self._sources: dict[int, Callable[[], bool]] = {
            fd: partial(self._accept, listener) for fd, listener in self._listeners.items()
        }
        self._joined: set[int] = set()  # of the sources, those that wake us
        self._mailbox: mailbox.Mailbox | None = None  # that is read
        if worker.mailbox:
            self.read_mailbox(worker.mailbox)
        self._yield_until = 0.0  # the others wake us again then, or when we are ahead no more
        self._blocked_until = 0.0  # ... not earlier than this
        self._next_sweep = 0.0
        self._is_short = False  # of descriptors
        self._highest = descriptors.highest()
        self._next_complaint = 0.0

    def wake(self) -> None:
        """Let the leader return from `poll`."""
        os.eventfd_write(self._wakeup, 1)

    def poll(self, timeout: float) -> None:
        """Wait for events, at most `timeout` seconds; connections that have sent something become `ready`."""
        now = time.monotonic()
        if len(self._joined) < len(self._sources):
            timeout = min(timeout, self._rejoin_sources(now))
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP
            with self.lock:
                self._sweep(now)
        if self.ready:
            timeout = 0.0
        sources = []
        for fd, _ in self._epoll.poll(max(0.0, min(timeout, self._next_sweep - now)), MAX_EVENTS):
            connection = self._by_fd.get(fd)
            if connection is None:
                sources.append(fd)
                continue
            try:
                self._note_event(connection)
            except Exception:  # noqa: BLE001 (whatever it is, it is this connection's alone)
                self.drop(connection)
        for fd in sources:  # new connections come after those that we have
            self._take_from(fd)

    def _note_event(self, connection: Connection) -> None:
        if connection.state is State.CLOSING:
            if connection.is_closed_by_client():
                self.close(connection)
        elif connection.state is not State.QUEUED:
            self._make_ready(connection)

    def _take_from(self, fd: int) -> None:
        if fd == self._wakeup:
            os.eventfd_read(fd)
        elif fd in self._mail:
            self._read_mail(fd)
        elif fd in self._joined and self._board.is_superseded:
            self.leave_sources()
        elif fd in self._joined:
            for _ in range(ACCEPTS):
                if not self._sources[fd]() or self._is_ahead():
                    break
            # To the end of the queue of those who wait: the next connection wakes somebody else.
            self._leave_source(fd)
            now = time.monotonic()
            self._yield_until = now + YIELD_PAUSE
            self._rejoin_sources(now)

    def _rejoin_sources(self, now: float) -> float:
        """Let new connections wake us, if it is our turn; return after how many seconds to ask again."""
        if self._board.is_superseded:
            self.leave_sources()
            return DRAIN_POLL
        if now < self._blocked_until:
            return self._blocked_until - now
        if self._is_short and not self._has_room():
            self._make_room(descriptors.TOO_MANY)
            return descriptors.PAUSE
        self._is_short = False
        if now < self._yield_until and self._is_ahead():
            return self._yield_until - now
        if len(self.connections) >= self.cfg.worker_connections:
            return descriptors.PAUSE
        for fd in self._sources.keys() - self._joined:
            self._epoll.register(fd, _IN_EXCLUSIVE)
            self._joined.add(fd)
        self._slot[Field.ACCEPTING] = bool(self._listeners)
        return SWEEP

    def leave_sources(self) -> None:
        """Let others be woken for what is new, and pass on what we may have been woken for."""
        for fd in list(self._joined):
            self._leave_source(fd)
        self._slot[Field.ACCEPTING] = 0
        if self._mailbox:
            self._mailbox.knock()
        for listener in self._listeners.values():
            for _ in range(ACCEPTS):
                if not self._accept(listener):
                    break

    def rejoin(self, connection: Connection) -> None:
        """Wait for the next request of `connection`, or for the rest of one; its deadline has been set."""
        connection.end_turn()
        if connection.next_request is NextRequest.UNPARSED:
            self._make_ready(connection)
        self._arm(connection)

    def set_deadline(self, connection: Connection, *, begun: bool) -> None:
        """Give the client time to end the request that it has begun, or to begin one."""
        connection.deadline = time.monotonic() + (self._header_timeout if begun else self.cfg.keepalive)

    def next(self) -> Connection | None:
        """Return a connection that has sent something; None when there is none."""
        return self.ready.popleft() if self.ready else None

    def _make_ready(self, connection: Connection) -> None:
        connection.enqueue()
        self.ready.append(connection)

    def release(self, connection: Connection) -> None:
        """Take `connection` out of the epoll while a thread that does not lead has it."""
        if connection.armed:
            connection.armed = False
            with suppress(OSError):  # the application has closed the descriptor, and the epoll has forgotten it
                self._epoll.unregister(connection.fd)

    def close_gracefully(self, connection: Connection) -> None:
        """Send FIN, and wait for the client's without a thread."""
        if connection.begin_close():
            connection.deadline = time.monotonic() + CLOSE_TIMEOUT
            self._arm(connection)
        else:
            self.close(connection)

    def close(self, connection: Connection) -> None:
        """Close `connection` for its client, too: a process that the application has forked may have a copy."""
        with suppress(OSError):  # it has gone by itself
            connection.sock.shutdown(socket.SHUT_RDWR)
        self.forget(connection)

    def drop(self, connection: Connection) -> None:
        """Close `connection` after the error that is being handled."""
        self._log.exception("Unexpected error with a connection, which is closed")
        self.close(connection)

    def forget(self, connection: Connection) -> None:
        """Close our copy of `connection`."""
        self.release(connection)  # a copy of the descriptor elsewhere would keep it in
        self.connections.discard(connection)
        if self._by_fd.get(connection.fd) is connection:
            del self._by_fd[connection.fd]
        if connection.state is State.QUEUED:
            with suppress(ValueError):
                self.ready.remove(connection)
        self._slot[Field.OPEN] = len(self.connections)
        with suppress(OSError):
            connection.sock.close()

    def stop_accepting(self) -> None:
        """Take no more connections: close our copies of the listeners."""
        self._slot[Field.ACCEPTING] = 0
        for fd, listener in self._listeners.items():
            self._leave_source(fd)
            del self._sources[fd]
            listener.close()
        self._listeners = {}

    def read_mailbox(self, box: mailbox.Mailbox) -> None:
        self._mailbox = box
        self._sources[box.listener.fileno()] = partial(self._accept_mail, box)

    def leave_mailbox(self, box: mailbox.Mailbox) -> None:
        """Leave the mailbox to the others: we would receive what we send. Mail that has been accepted is read on."""
        self._leave_source(box.listener.fileno())
        self._sources.pop(box.listener.fileno(), None)
        self._mailbox = None
        box.knock()

    def limit_idle(self, deadline: float) -> None:
        """Close connections without a request at `deadline` at the latest."""
        with self.lock:
            for connection in self.connections:
                if connection.state is State.IDLE:
                    connection.deadline = min(connection.deadline, deadline)
        self._next_sweep = min(self._next_sweep, deadline)

    @property
    def receives_mail(self) -> bool:
        return bool(self._mail)

    def close_in_child(self) -> None:
        """Close our copies of everything, in a process that the application has forked: it is no second server."""
        for listener in self._listeners.values():
            listener.close()
        for connection in self.connections:
            with suppress(OSError):
                connection.sock.close()
        for sender, _ in self._mail.values():
            sender.close()
        self._epoll.close()
        os.close(self._wakeup)

    def _leave_source(self, fd: int) -> None:
        if fd in self._joined:
            self._joined.remove(fd)
            with suppress(OSError):  # as in release()
                self._epoll.unregister(fd)

    def _is_ahead(self) -> bool:
        """Whether a sibling that could accept has clearly fewer connections."""
        return any(
            len(self.connections) > sibling[Field.OPEN] + max(LEAD, sibling[Field.OPEN] // LEAD_RATIO)
            for sibling in self._board.taken()
            # One thread, busy: it is likely to be free in a moment.
            if sibling[Field.ACCEPTING] and sibling[Field.IN_FLIGHT] < max(2, sibling[Field.THREADS])
        )

    def _accept(self, listener: Any) -> bool:
        """Take a connection from the queue; return whether there may be another."""
        try:
            client, address = mailbox.accept(listener)
        except OSError as error:
            if error.errno in descriptors.NO_RESOURCES:
                self._make_room(error.strerror or str(error))
            elif error.errno not in _NOBODY_THERE:
                now = time.monotonic()
                self._blocked_until = now + descriptors.PAUSE
                if now >= self._next_complaint:
                    self._next_complaint = now + descriptors.LOG_INTERVAL
                    self._log.exception("Cannot accept a connection")
            return False
        if self._pass_on(client, listener_name(listener)):
            return True
        try:
            connection = self._adopt(client, address, listener.getsockname(), listener_name(listener))
        except OSError:  # TLS finds that the client has gone
            client.close()
            return True
        connection.deadline = time.monotonic() + self._header_timeout
        self._make_ready(connection)  # its request has often come with it
        if connection.fd >= self._highest:
            self._make_room(descriptors.TOO_MANY)
            return False
        return bool(len(self.connections) < self.cfg.worker_connections)

    def _make_room(self, reason: str) -> None:
        """Accept nothing for a moment, for want of descriptors, and close those that have been idle for longest."""
        now = time.monotonic()
        self._blocked_until = now + descriptors.PAUSE
        self._is_short = True
        self._slot[Field.ACCEPTING] = 0
        if now >= self._next_complaint:
            self._next_complaint = now + descriptors.LOG_INTERVAL
            self._log.error("Cannot accept a connection (%s): raise LimitNOFILE= of the service", reason)
        with self.lock:
            idle = [
                (c.free_since or c.deadline - self._header_timeout, c)
                for c in self.connections
                if c.state is State.IDLE
            ]
            oldest = sorted((since, c.fd, c) for since, c in idle if now - since > descriptors.SPARE_AFTER)
            for _, _, connection in oldest[: descriptors.SPARED]:
                if not connection.has_sent():
                    self.close(connection)

    def _has_room(self) -> bool:
        """Whether a new connection would leave the application its reserve of descriptors."""
        self._highest = descriptors.highest()
        return descriptors.have_room(self._wakeup)

    def _adopt(self, client: socket.socket, address: Any, server: Any, name: str | None) -> Connection:
        if client.family == socket.AF_INET6:
            address = (unmapped(address[0]), *address[1:])
        connection = (
            Connection(self.cfg, client, address, server, name)
            if self._context is None
            else TLSConnection(self.cfg, _wrap(client, self._context, self.cfg), address, server, name)
        )
        self.connections.add(connection)
        self._by_fd[connection.fd] = connection
        self._slot[Field.ACCEPTED] += 1
        self._slot[Field.OPEN] = len(self.connections)
        return connection

    def _accept_mail(self, box: mailbox.Mailbox) -> bool:
        """Read what one sender has left; return whether there may be another."""
        if not self._has_room():  # for a batch: what does not find a descriptor would be lost
            self._make_room(descriptors.TOO_MANY)
            return False
        try:
            sender = box.accept()
        except MailboxError as error:
            self._log.warning("Mailbox: %s", error)
            return True
        except OSError as error:
            self._make_room(error.strerror or str(error))
            return False
        if sender is None:
            return False
        self._mail[sender.fileno()] = (sender, time.monotonic() + mailbox.SENDER_TIMEOUT)
        self._epoll.register(sender, _IN)
        self._read_mail(sender.fileno())
        return True

    def _read_mail(self, fd: int) -> None:
        sender, _ = self._mail[fd]
        try:
            while message := mailbox.receive(sender):
                self._take_over(*message)
        except BlockingIOError:
            return
        except (MailboxError, OSError) as error:
            self._log.warning("Mailbox: %s", error)
        self._end_mail(fd)

    def _end_mail(self, fd: int) -> None:
        sender, _ = self._mail.pop(fd)
        with suppress(OSError):  # as in release()
            self._epoll.unregister(fd)
        sender.close()

    def _take_over(self, origin: mailbox.Origin, clients: list[socket.socket], refused: list[str]) -> None:
        for reason in refused:
            self._log.warning("Mailbox: %s", reason)
        for client in clients:
            if origin.is_new and self._pass_on(client, origin.listener):
                continue
            try:
                address = client.getpeername()
                server = self._server_address(client, origin.listener)
                connection = self._adopt(client, address, server, origin.listener)
            except OSError:  # it has closed meanwhile
                client.close()
                continue
            connection.served = origin.served
            connection.parser.req_count = int(origin.served)
            connection.proxy = dict(origin.proxy) if origin.proxy else None
            connection.put_back(origin.unread)
            self._slot[Field.CARRIED_IN] += 1
            self.set_deadline(connection, begun=connection.has_begun or not origin.served)
            self.rejoin(connection)

    def _server_address(self, client: socket.socket, name: str | None) -> Any:
        """Return the address of the listener that `client` came by, as an accepted connection has it."""
        own = client.getsockname()
        for listener in self._listeners.values():
            address = listener.getsockname()
            if listener_name(listener) == name and listener.family == client.family and address[1:2] == own[1:2]:
                return address
        return own

    def _arm(self, connection: Connection) -> None:
        if not connection.armed:
            self._epoll.register(connection.fd, _IN)
            connection.armed = True

    def _sweep(self, now: float) -> None:
        """Close connections whose time is over; one whose request has come meanwhile is ready instead."""
        idle = 0
        for connection in list(self.connections):
            if connection.state in (State.QUEUED, State.IN_REQUEST):
                continue
            is_idle = connection.state is State.IDLE
            idle += is_idle
            if connection.deadline > now:
                continue
            if is_idle and connection.has_sent():
                self._make_ready(connection)
            else:
                self.close(connection)
        self._slot[Field.IDLE] = idle
        for fd, (_, deadline) in list(self._mail.items()):
            if deadline <= now:
                self._log.warning("Mailbox: a sender that does not end")
                self._end_mail(fd)


def _wrap(client: socket.socket, context: ssl.SSLContext, cfg: Settings) -> ssl.SSLSocket:
    client.setblocking(False)
    return context.wrap_socket(
        client, server_side=True, suppress_ragged_eofs=cfg.suppress_ragged_eofs, do_handshake_on_connect=False
    )


def _tls_context(cfg: Settings) -> ssl.SSLContext:
    """Return gunicorn's context, but for HTTP/1.1 alone."""
    context: ssl.SSLContext = gunicorn_sock.ssl_context(cfg)
    if "h2" in cfg.http_protocols:
        context.set_alpn_protocols(["http/1.1"])
    return context
