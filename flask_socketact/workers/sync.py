"""gunicorn's sync worker under systemd: one request at a time."""

from __future__ import annotations

import errno
import select
import socket
import time
from typing import Any

from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.workers import sync

from flask_socketact.errors import MailboxError
from flask_socketact.handover import mailbox
from flask_socketact.linux import descriptors
from flask_socketact.workers.base import HEARTBEAT, BaseWorker, listener_name
from flask_socketact.workers.drain import DRAIN_POLL, LINGER
from flask_socketact.workers.gunicorn_base import CarriedClient, GunicornMixin, Listener
from flask_socketact.workers.protocols import refuse_http2

#: Errors that gunicorn's loop treats as an empty queue. Any other error would end the worker.
_EMPTY_QUEUE = (errno.EAGAIN, errno.ECONNABORTED, errno.EWOULDBLOCK)


class SyncWorker(GunicornMixin, BaseWorker, sync.SyncWorker):
    """One request at a time, without keep-alive: ``-k flask_socketact.workers.sync.SyncWorker``.

    A slow client blocks the worker, as with gunicorn's: put a proxy in front. On a connection that a worker of another
    class has handed over, one more request is served, and then it is closed.
    """

    @classmethod
    def check_config(cls, cfg: Config, log: Logger) -> None:  # noqa: ARG003 (gunicorn's)
        """Check the settings. Called in the master.

        :raises SettingsError: HTTP/2 is asked for.
        """
        refuse_http2(cfg)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._carried: dict[_Client, tuple[CarriedClient, float]] = {}  # with the deadline for their request

    def run(self) -> None:
        if self.mailbox is not None:
            self.wait_fds.append(self.mailbox.listener)
        while self.alive:
            try:
                super().run()
            except BaseException:  # noqa: BLE001 (no error ends the worker)
                self.note_failure()
            else:
                break  # the master has died
        while self._carried or (self.board.stopping and self.carrier.has_mail()):
            self.notify()
            time.sleep(DRAIN_POLL)

    def accept(self, listener: Any) -> None:
        """Accept a connection and serve it. If no descriptor is free, leave it in the queue for a moment."""
        if self.mailbox is not None and listener is self.mailbox.listener:
            return  # notify() reads the mailbox
        try:
            super().accept(listener)
        except OSError as error:
            if error.errno in _EMPTY_QUEUE:
                raise  # gunicorn's loop handles it
            self.log.error("Cannot accept a connection (%s)", error.strerror or error)
            time.sleep(descriptors.ACCEPT_PAUSE)

    def wait(self, timeout: float) -> Any:
        """Wait for a connection, at most until the next heartbeat; gunicorn sends one every ``timeout / 2`` seconds."""
        return super().wait(min(timeout, DRAIN_POLL if self._carried else HEARTBEAT))

    def notify(self) -> None:
        """Send a heartbeat, and check that the master is running: under load gunicorn's loop never does."""
        super().notify()
        self.reopen_files()
        self.beat()
        self.relayed.check_master()
        if self.mailbox is not None and self._may_read():
            self._read_mail(self.mailbox)
        if self._carried:
            self._serve_carried()

    def is_parent_alive(self) -> bool:
        """Return whether to go on. To gunicorn's loop a relayed worker has lost its parent, if its master exits between
        its heartbeat and this: nearly always with several listeners, as it serves a request in between."""
        return self.relayed.check_master()

    def _may_read(self) -> bool:
        return (self.alive and not self.board.is_superseded) or self.board.stopping

    def handle(self, listener: Any, client: Any, address: Any) -> None:
        if isinstance(client, _Client) or not self.carrier.pass_on(client, listener_name(listener)):
            super().handle(listener, client, address)

    def close_in_child(self) -> None:
        super().close_in_child()
        for exchange in self.upgrades:
            exchange.lent_socket.close_in_child()
        for client in self._carried:
            client.close()

    def _read_mail(self, box: mailbox.Mailbox) -> None:
        try:
            sender = box.accept()
            if sender is not None:
                with sender:
                    self._read_sender(sender)
        except (MailboxError, OSError) as error:
            self.log.warning("Mailbox: %s", error)

    def _read_sender(self, sender: socket.socket) -> None:
        """:raises MailboxError: it does not finish in time, or its message is invalid.
        :raises OSError: its connection is broken."""
        poll = select.poll()
        poll.register(sender, select.POLLIN)
        while poll.poll(1000 * LINGER):
            message = mailbox.receive(sender)
            if message is None:
                return
            for client in self.take_over(*message):
                ours = _Client(client.connection.detach(), client.origin.unread)
                self._carried[ours] = (client, time.monotonic() + LINGER)
        raise MailboxError(f"a sender has not finished within {LINGER:g} s")

    def _serve_carried(self) -> None:
        """Serve one request of each carried connection, and close those whose deadline has passed."""
        now = time.monotonic()
        for client, (carried, deadline) in list(self._carried.items()):
            if client.has_input():
                del self._carried[client]
                self.handle(self._listener_of(carried), client, carried.address)
            elif deadline < now:
                del self._carried[client]
                client.close()

    def _listener_of(self, client: CarriedClient) -> Any:
        found = next((listener for listener in self.sockets if client.came_through(listener)), None)
        return found or Listener(client.origin.listener, client.server_address)


class _Client(socket.socket):
    """A connection from which another worker may have read bytes already."""

    def __init__(self, fd: int, unread: bytes) -> None:
        super().__init__(fileno=fd)
        self.settimeout(None)  # socket.setdefaulttimeout() of the application
        self._unread = unread

    def has_input(self) -> bool:
        """Return whether bytes, or the end of the connection, can be read."""
        poll = select.poll()
        poll.register(self, select.POLLIN)
        return bool(self._unread or poll.poll(0))

    def recv(self, *args: Any) -> bytes:
        """As ``socket.recv``."""
        unread, self._unread = self._unread, b""
        return unread or super().recv(*args)
