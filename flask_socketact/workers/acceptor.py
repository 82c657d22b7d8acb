"""New connections of a worker: from its listeners, and from the mailbox."""

from __future__ import annotations

import errno
import select
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from flask_socketact.errors import MailboxError
from flask_socketact.handover import mailbox
from flask_socketact.linux import descriptors
from flask_socketact.shared.slot import Field, Slot
from flask_socketact.workers.balance import can_serve, has_free_thread, leads
from flask_socketact.workers.base import BaseWorker, listener_name
from flask_socketact.workers.drain import DRAIN_POLL

if TYPE_CHECKING:
    from flask_socketact.workers.connection_loop import Loop

#: Errors of accept(2): another worker was faster, the client has disconnected, or the new connection has an error.
_NO_CONNECTION = (
    *(errno.EAGAIN, errno.ECONNABORTED, errno.ENETDOWN, errno.EPROTO, errno.ENOPROTOOPT),
    *(errno.EHOSTDOWN, errno.ENONET, errno.EHOSTUNREACH, errno.EOPNOTSUPP, errno.ENETUNREACH),
)

#: How long a worker that has more connections than its siblings leaves new ones to them, in seconds.
YIELD_PAUSE = 0.001
#: Most connections accepted in a row before existing ones are served.
ACCEPT_BATCH = 64
#: Longest time between two looks at the listeners and the mailbox, in seconds.
RECHECK_INTERVAL = 1.0

_IN = select.EPOLLIN
#: A new connection wakes one worker, not all of them (epoll_ctl(2)).
_IN_EXCLUSIVE = select.EPOLLIN | select.EPOLLEXCLUSIVE


class Acceptor:
    """The sources of one worker: its listeners and the mailbox. Used by the leader only, as the loop."""

    def __init__(self, worker: BaseWorker, loop: Loop) -> None:
        self._log = worker.log
        self._board = worker.board
        self._carrier = worker.carrier
        self._slot = worker.slot
        self._loop = loop
        self._epoll = loop.epoll
        self._listeners = {listener.fileno(): listener for listener in worker.sockets}
        self._senders: dict[int, tuple[socket.socket, float]] = {}  # senders, and their deadlines
        for listener in worker.sockets:
            listener.setblocking(False)
        self._sources: dict[int, Callable[[], bool]] = {
            fd: partial(self._accept, listener) for fd, listener in self._listeners.items()
        }
        self._watched: set[int] = set()  # sources in the epoll
        self._mailbox: mailbox.Mailbox | None = None  # None: not read
        if worker.mailbox:
            self.read_mailbox(worker.mailbox)
        self._yield_until = 0.0  # accept nothing before, unless we are no longer ahead
        self._blocked_until = self._leave_mail_until = 0.0  # accept nothing, or read no mail, before
        self._lacks_descriptors = False
        self._first_reserved = descriptors.first_reserved()
        self._next_log = 0.0

    def watch_sources(self, now: float) -> float:
        """Add the sources to the epoll if this worker may accept; return after how many seconds to call again."""
        return RECHECK_INTERVAL if len(self._watched) == len(self._sources) else self._watch_all(now)

    def handle_event(self, fd: int) -> None:
        """Accept from a source, or read from a sender, that the epoll has reported."""
        if fd in self._senders:
            self._read_mail(fd)
        elif fd in self._watched and self._board.is_superseded:
            self.unwatch_sources()
        elif fd in self._watched:
            may_serve = can_serve if fd in self._listeners else has_free_thread
            for _ in range(ACCEPT_BATCH):
                if not self._sources[fd]() or self._is_ahead(may_serve):
                    break
            # Moves us to the end of the kernel's wait queue: the next connection wakes another worker.
            self._unwatch(fd)
            now = time.monotonic()
            self._yield_until = now + YIELD_PAUSE
            self._watch_all(now)

    def _watch_all(self, now: float) -> float:
        if self._board.is_superseded:
            self.unwatch_sources()
            return DRAIN_POLL
        if now < self._blocked_until:
            return self._blocked_until - now
        if self._lacks_descriptors and not self._has_room():
            self._make_room(descriptors.TOO_MANY_OPEN_FILES)
            return descriptors.ACCEPT_PAUSE
        self._lacks_descriptors = False
        pause = self._yield_until - now
        if pause > 0.0 and self._is_ahead(has_free_thread):
            return pause
        if len(self._loop.connections) >= self._loop.cfg.worker_connections:
            return descriptors.ACCEPT_PAUSE
        wanted = self._sources.keys() - self._watched
        if pause > 0.0 and self._is_ahead(can_serve):
            wanted -= self._listeners.keys()
        else:
            pause = RECHECK_INTERVAL
        if now < self._leave_mail_until and self._mailbox is not None:
            wanted.discard(self._mailbox.listener.fileno())
            pause = min(pause, self._leave_mail_until - now)
        for fd in wanted:
            self._epoll.register(fd, _IN_EXCLUSIVE)
            self._watched.add(fd)
        self._slot[Field.ACCEPTING] = bool(self._listeners)
        return pause

    def unwatch_sources(self) -> None:
        """Leave new connections to other workers, and pass on those for which the kernel may have woken us."""
        for fd in list(self._watched):
            self._unwatch(fd)
        self._slot[Field.ACCEPTING] = 0
        if self._mailbox:
            self._mailbox.knock()
        for listener in self._listeners.values():
            for _ in range(ACCEPT_BATCH):
                if not self._accept(listener):
                    break

    def stop_accepting(self) -> None:
        """Close our copies of the listeners."""
        self._slot[Field.ACCEPTING] = 0
        for fd, listener in self._listeners.items():
            self._unwatch(fd)
            del self._sources[fd]
            listener.close()
        self._listeners = {}

    def read_mailbox(self, box: mailbox.Mailbox) -> None:
        self._mailbox = box
        self._sources[box.listener.fileno()] = partial(self._accept_mail, box)

    def leave_mailbox(self, box: mailbox.Mailbox) -> None:
        """Stop accepting mail, as we would receive what we send. Senders that are already accepted are read on."""
        self._unwatch(box.listener.fileno())
        self._sources.pop(box.listener.fileno(), None)
        self._mailbox = None
        box.knock()

    def leave_mail(self, until: float) -> None:
        """Leave the mailbox to siblings until then (CLOCK_MONOTONIC, seconds)."""
        self._leave_mail_until = until
        if self._mailbox is not None:
            self._unwatch(self._mailbox.listener.fileno())
            self._mailbox.knock()  # the kernel may have woken us

    @property
    def receives_mail(self) -> bool:
        return bool(self._senders)

    def close_late_senders(self, now: float) -> None:
        """Close senders that take too long."""
        for fd, (_, deadline) in list(self._senders.items()):
            if deadline <= now:
                self._log.warning("Mailbox: a sender has not finished within %g s", mailbox.SENDER_TIMEOUT)
                self._close_sender(fd)

    def close_in_child(self) -> None:
        """Close our copies in a process that the application has forked: it must not serve."""
        for listener in self._listeners.values():
            listener.close()
        for sender, _ in self._senders.values():
            sender.close()

    def _unwatch(self, fd: int) -> None:
        if fd in self._watched:
            self._watched.remove(fd)
            with suppress(OSError):  # as in Loop.unregister()
                self._epoll.unregister(fd)

    def _is_ahead(self, may_serve: Callable[[Slot], bool]) -> bool:
        """Return whether a sibling that could accept, as `may_serve` says, has clearly fewer connections."""
        ours = len(self._loop.connections)
        return any(leads(ours, sibling) for sibling in self._board.taken() if may_serve(sibling))

    def _accept(self, listener: Any) -> bool:
        """Accept a connection; return whether there may be another."""
        try:
            client, address = mailbox.accept(listener)
        except OSError as error:
            if error.errno in descriptors.NO_RESOURCES:
                self._make_room(error.strerror or str(error))
            elif error.errno not in _NO_CONNECTION:
                self._blocked_until = time.monotonic() + descriptors.ACCEPT_PAUSE
                if self._may_log():
                    self._log.exception("Cannot accept a connection")
            return False
        if self._carrier.pass_on(client, listener_name(listener)):
            return True
        try:
            connection = self._loop.adopt(client, address, listener.getsockname(), listener_name(listener))
        except OSError:  # with TLS: the client has disconnected
            client.close()
            return True
        self._loop.balance.has_new = True
        self._loop.set_deadline(connection, begun=True)
        self._loop.make_ready(connection)  # its request has often arrived already
        if connection.fd >= self._first_reserved:
            self._make_room(descriptors.TOO_MANY_OPEN_FILES)
            return False
        return bool(len(self._loop.connections) < self._loop.cfg.worker_connections)

    def _make_room(self, reason: str) -> None:
        """Short of descriptors: accept nothing for a moment, and close the connections that were idle for longest."""
        now = time.monotonic()
        self._blocked_until = now + descriptors.ACCEPT_PAUSE
        self._lacks_descriptors = True
        self._slot[Field.ACCEPTING] = 0
        if self._may_log():
            self._log.error("Cannot accept a connection (%s): raise LimitNOFILE= of the service", reason)
        self._loop.close_oldest_idle(now)

    def _may_log(self) -> bool:
        """Return whether it is time for another line about what cannot be accepted."""
        now = time.monotonic()
        if now < self._next_log:
            return False
        self._next_log = now + descriptors.LOG_INTERVAL
        return True

    def _has_room(self) -> bool:
        """Return whether a new connection leaves the application its reserve of descriptors."""
        self._first_reserved = descriptors.first_reserved()
        return descriptors.has_room(self._epoll.fileno())

    def _accept_mail(self, box: mailbox.Mailbox) -> bool:
        """Accept and read one sender; return whether there may be another."""
        if not self._has_room():  # for a batch: connections without a free descriptor would be lost
            self._make_room(descriptors.TOO_MANY_OPEN_FILES)
            return False
        try:
            sender = box.accept()
        except MailboxError as error:  # any user can connect to a private mailbox
            if self._may_log():
                self._log.warning("Mailbox: %s", error)
            return True
        except OSError as error:
            self._make_room(error.strerror or str(error))
            return False
        if sender is None:
            return False
        self._senders[sender.fileno()] = (sender, time.monotonic() + mailbox.SENDER_TIMEOUT)
        self._epoll.register(sender, _IN)
        self._read_mail(sender.fileno())
        return True

    def _read_mail(self, fd: int) -> None:
        sender, _ = self._senders[fd]
        try:
            while message := mailbox.receive(sender):
                self._take_over(*message)
        except BlockingIOError:
            return
        except (MailboxError, OSError) as error:
            self._log.warning("Mailbox: %s", error)
        self._close_sender(fd)

    def _close_sender(self, fd: int) -> None:
        sender, _ = self._senders.pop(fd)
        with suppress(OSError):  # as in Loop.unregister()
            self._epoll.unregister(fd)
        sender.close()

    def _take_over(self, origin: mailbox.Origin, clients: list[socket.socket], refused: list[str]) -> None:
        for client, address in self._carrier.receive(origin, clients, refused):
            try:
                server = self._server_address(client, origin.listener)
                connection = self._loop.adopt(client, address, server, origin.listener)
            except OSError:  # the client has disconnected
                client.close()
                continue
            connection.served = origin.served
            connection.parser.req_count = int(origin.served)
            connection.proxy = dict(origin.proxy) if origin.proxy else None
            connection.add_unread(origin.unread)
            self._slot[Field.CARRIED_IN] += 1
            self._loop.set_deadline(connection, begun=connection.has_next_request or not origin.served)
            self._loop.rejoin(connection)

    def _server_address(self, client: socket.socket, name: str | None) -> Any:
        """Return the address of the listener that accepted `client`, as ``listener.getsockname()`` returns it."""
        own = client.getsockname()
        for listener in self._listeners.values():
            address = listener.getsockname()
            if listener_name(listener) == name and listener.family == client.family and address[1:2] == own[1:2]:
                return address
        return own
