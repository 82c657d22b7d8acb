"""The connections of one worker, in one epoll: wait for requests, time out, close. The acceptor adds new ones.

An unexpected error closes only the connection in which it occurred.
"""

from __future__ import annotations

import math
import os
import select
import socket
import threading
import time
from collections import deque
from contextlib import suppress
from typing import Any

from gunicorn import sock as gunicorn_sock

from flask_socketact import env
from flask_socketact.addresses import unmapped
from flask_socketact.http import tls
from flask_socketact.http.connection import Connection
from flask_socketact.http.plain import PlainParser
from flask_socketact.http.settings_cache import Settings
from flask_socketact.http.states import WITHOUT_THREAD, NextRequest, State
from flask_socketact.http.tls import TLSConnection
from flask_socketact.http.unsent import ShorterFileError
from flask_socketact.linux import descriptors
from flask_socketact.shared.slot import Field
from flask_socketact.workers.acceptor import Acceptor
from flask_socketact.workers.balance import Balance
from flask_socketact.workers.base import BaseWorker
from flask_socketact.workers.closing import Closing

#: How often we look for connections whose deadline has passed, in seconds.
SWEEP_INTERVAL = 1.0
NO_PROGRESS = "A client has neither sent nor read anything for %s s: disconnected"
#: Most events read from the epoll at once: while the leader serves the first, the others wait.
MAX_EVENTS = 64


class Loop:
    """The event loop. Only the leader polls; other threads call `rejoin` and the like while they hold `lock`."""

    def __init__(self, worker: BaseWorker) -> None:
        self.cfg = cfg = Settings(worker.cfg)
        self._log = worker.log
        self.lock = threading.Lock()  #: for all changes of connections without a request in flight
        self.ready: deque[Connection] = deque()  #: bytes have arrived, and a thread can serve them
        self.connections: set[Connection] = set()
        self.without_thread: set[Connection] = set()  #: their requests are in flight, and need no thread now
        self._by_fd: dict[int, Connection] = {}  # the epoll reports descriptors
        self._slot = worker.slot
        self._header_timeout = env.header_timeout()
        self._body_limit = env.body_buffer()
        self._plain = PlainParser.create(cfg)
        self._context = gunicorn_sock.ssl_context(cfg) if cfg.is_ssl else None
        self.epoll = select.epoll()
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.epoll.register(self._wakeup, select.EPOLLIN)
        self.acceptor = Acceptor(worker, self)
        self.balance = Balance(worker, self)
        self._next_sweep = 0.0
        self._closing = Closing(cfg.timeout)

    def wake(self) -> None:
        """Make the leader return from `poll`."""
        os.eventfd_write(self._wakeup, 1)

    def poll(self, timeout: float) -> None:
        """Wait for events, at most `timeout` seconds. Connections with new bytes become `ready`."""
        now = time.monotonic()
        timeout = min(timeout, self.balance.look(now), self.acceptor.watch_sources(now))
        if now >= self._next_sweep:
            self._next_sweep = now + SWEEP_INTERVAL
            with self.lock:
                self._sweep(now)
            self.acceptor.close_late_senders(now)
        if self.ready:
            timeout = 0.0
        sources = []
        for fd, _ in self.epoll.poll(max(0.0, min(timeout, self._next_sweep - now)), MAX_EVENTS):
            connection = self._by_fd.get(fd)
            if connection is None:
                sources.append(fd)
                continue
            try:
                self._note_event(connection)
            except Exception:  # noqa: BLE001 (any error closes this connection only)
                self.close_after_error(connection)
        for fd in sources:  # existing connections first, then new ones
            if fd == self._wakeup:
                os.eventfd_read(fd)
            else:
                self.acceptor.handle_event(fd)

    def _note_event(self, connection: Connection) -> None:
        if not connection.registered_events:
            return  # it is of an earlier connection with this descriptor, of which a forked process still has a copy
        if connection.state is State.CLOSING:
            if self._closing.is_over(connection):
                self.close(connection)
        elif connection.state is State.SENDING:
            self._send_more(connection)
        elif connection.state is not State.QUEUED:
            self.make_ready(connection)

    def rejoin(self, connection: Connection) -> None:
        """Return `connection` to the loop after its turn, to wait for a request or the rest of one.

        Its deadline is already set.
        """
        connection.end_turn()
        if connection.next_request is NextRequest.UNPARSED:
            self.make_ready(connection)
        elif connection.next_request is NextRequest.BODY:
            self.note_progress(connection)
            self.without_thread.add(connection)
        self._register(connection)

    def set_deadline(self, connection: Connection, *, begun: bool) -> None:
        """Set the time for the client to complete the headers that it has `begun`, or to begin a request."""
        connection.deadline = time.monotonic() + (self._header_timeout if begun else self.cfg.keepalive)

    def note_progress(self, connection: Connection) -> None:
        """Set the time for the client to send, or take, something more of a request in flight."""
        connection.deadline = time.monotonic() + (self.cfg.timeout or math.inf)

    def send_rest(self, connection: Connection, *, closes: bool) -> None:
        """Send the rest of a response as its client takes it; then wait for the next request, or close."""
        connection.begin_sending(closes=closes)
        self.note_progress(connection)
        self.without_thread.add(connection)
        self._register(connection, select.EPOLLOUT)

    def _send_more(self, connection: Connection) -> None:
        unsent = connection.unsent
        try:
            is_sent = unsent is None or unsent.send(connection)
        except (OSError, ShorterFileError) as error:  # the client has disconnected, perhaps
            if isinstance(error, ShorterFileError):
                self._log.error("Closing connection: %s", error)
            with self.lock:
                self.close(connection)
            return
        self.note_progress(connection)
        if is_sent:
            with self.lock:
                self._end_sending(connection)

    def _end_sending(self, connection: Connection) -> None:
        connection.end_sending()
        self.without_thread.discard(connection)
        if connection.closes:
            self.close_gracefully(connection)
        else:
            connection.free_since = time.monotonic()
            self.set_deadline(connection, begun=connection.has_next_request)
            self.rejoin(connection)

    def next_ready(self) -> Connection | None:
        """Return the next ready connection; None if there is none."""
        return self.ready.popleft() if self.ready else None

    def make_ready(self, connection: Connection) -> None:
        """Queue `connection` for a thread."""
        connection.enqueue()
        self.ready.append(connection)

    def unregister(self, connection: Connection) -> None:
        """Remove `connection` from the epoll while a thread that is not the leader serves it."""
        if connection.registered_events:
            connection.registered_events = 0
            with suppress(OSError):  # the application has closed the descriptor, which removes it from the epoll
                self.epoll.unregister(connection.fd)

    def close_gracefully(self, connection: Connection) -> None:
        """Send FIN, and wait for the client's FIN without a thread."""
        if self._closing.begin(connection):
            self._register(connection)
        else:
            self.close(connection)

    def _close_late(self, connection: Connection) -> None:
        """Close `connection`, whose deadline has passed. If a request has begun, its client gets 408."""
        if connection.state in WITHOUT_THREAD:
            self._log.info(NO_PROGRESS, self.cfg.timeout)
        if connection.state in (State.READING_HEADERS, State.READING_BODY):
            self.without_thread.discard(connection)
            connection.respond_late()
            self.close_gracefully(connection)
        else:
            self.close(connection)

    def close(self, connection: Connection) -> None:
        """Close `connection`, even if a process that the application has forked has a copy of it."""
        with suppress(OSError):  # the client has closed it
            connection.sock.shutdown(socket.SHUT_RDWR)
        self.close_copy(connection)

    def close_after_error(self, connection: Connection) -> None:
        """Log the current exception, and close `connection`."""
        self._log.exception("Unexpected error: the connection is closed")
        self.close(connection)

    def close_copy(self, connection: Connection) -> None:
        """Close our copy of `connection`."""
        self.unregister(connection)  # a copy in another process would keep it in the epoll
        self.connections.discard(connection)
        self.without_thread.discard(connection)
        connection.release()
        if self._by_fd.get(connection.fd) is connection:
            del self._by_fd[connection.fd]
        if connection.state is State.QUEUED:
            with suppress(ValueError):
                self.ready.remove(connection)
        self._slot[Field.OPEN] = len(self.connections)
        with suppress(OSError):
            connection.sock.close()

    def close_oldest_idle(self, now: float) -> None:
        """Close the connections that have been idle for longest, because descriptors are short."""
        with self.lock:
            idle = [
                (c.free_since or c.deadline - self._header_timeout, c)
                for c in self.connections
                if c.state is State.IDLE
            ]
            oldest = sorted((since, c.fd, c) for since, c in idle if now - since > descriptors.CLOSE_IDLE_AFTER)
            for _, _, connection in oldest[: descriptors.CLOSE_IDLE_BATCH]:
                if not connection.has_input():
                    self.close(connection)

    def close_idle_by(self, deadline: float) -> None:
        """Close connections without a request at `deadline` at the latest."""
        self._closing.end_soon()
        with self.lock:
            for connection in self.connections:
                if connection.state in (State.IDLE, State.CLOSING):
                    connection.deadline = min(connection.deadline, deadline)
        self._next_sweep = min(self._next_sweep, deadline)

    def close_in_child(self) -> None:
        """Close our copies of everything in a process that the application has forked: it must not serve."""
        self.acceptor.close_in_child()
        for connection in self.connections:
            with suppress(OSError):
                connection.sock.close()
            if connection.lent_socket is not None:
                connection.lent_socket.close_in_child()
        self.epoll.close()
        os.close(self._wakeup)

    def adopt(self, client: socket.socket, address: Any, server: Any, name: str | None) -> Connection:
        """Add a connection. `address` is the client's; `server` and `name` are the listener's address and name.

        :raises OSError: the client has disconnected.
        """
        if client.family == socket.AF_INET6:
            address = (unmapped(address[0]), *address[1:])
        connection = (
            Connection(self.cfg, client, address, server, name)
            if self._context is None
            else TLSConnection(self.cfg, tls.wrap(client, self._context, self.cfg), address, server, name)
        )
        connection.body_limit, connection.plain = self._body_limit, self._plain
        self.connections.add(connection)
        self._by_fd[connection.fd] = connection
        self._slot[Field.ACCEPTED] += 1
        self._slot[Field.OPEN] = len(self.connections)
        return connection

    def _register(self, connection: Connection, events: int = select.EPOLLIN) -> None:
        # First: as soon as the kernel knows it, the leader may close the connection, and must remove it from the epoll.
        before, connection.registered_events = connection.registered_events, events
        if not before:
            self.epoll.register(connection.fd, events)
        elif before != events:
            self.epoll.modify(connection.fd, events)

    def _sweep(self, now: float) -> None:
        """Close connections whose deadline has passed, except idle ones whose next request has just arrived."""
        idle = 0
        for connection in list(self.connections):
            if connection.state in (State.QUEUED, State.IN_REQUEST):
                continue
            is_idle = connection.state is State.IDLE
            idle += is_idle
            if connection.state is State.SENDING and connection.has_client_progress():
                self.note_progress(connection)
            if connection.deadline > now:
                continue
            if is_idle and connection.has_input():
                self.make_ready(connection)
            else:
                self._close_late(connection)
        self._slot[Field.IDLE] = idle
