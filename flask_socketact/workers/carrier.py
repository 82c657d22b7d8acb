"""Hand connections over to other workers through the mailbox."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from flask_socketact.errors import MailboxError
from flask_socketact.handover import mailbox
from flask_socketact.linux import descriptors
from flask_socketact.shared.scoreboard import Field

if TYPE_CHECKING:
    from flask_socketact.workers.base import BaseWorker


class Movable(Protocol):
    """A connection, as another process needs to know it."""

    fd: int
    listener: str | None  #: name of the listener that it came by
    served: bool  #: a request was answered on it
    proxy: dict[str, Any] | None  #: what the PROXY protocol said

    @property
    def is_movable(self) -> bool:
        """Whether another process can go on with it now: it has no request of its own here."""

    @property
    def unread(self) -> bytes:
        """What has been read beyond the last request."""


class Holder(Protocol):
    """What has the connections of a worker."""

    def read_mailbox(self, box: mailbox.Mailbox) -> None:
        """Take connections over, from now on."""

    def leave_mailbox(self, box: mailbox.Mailbox) -> None:
        """Leave the mailbox to others: we would receive what we send."""

    def close_copy(self, connection: Any) -> None:
        """Close our copy of a connection that has been sent."""


class Carrier:
    """What one worker may hand over, and to whom."""

    def __init__(self, worker: BaseWorker) -> None:
        self._worker = worker
        self._holder: Holder  # from when it has begun
        self.has_begun = False  #: the drain, for connections, too
        self.is_carrying = False  #: ... and they go to the mailbox as soon as they have no request here

    def has_successor(self) -> bool:
        """Whether somebody reads the mailbox when this worker has left."""
        worker = self._worker
        if worker.board.stopping or worker.board.is_deaf:
            return False
        if not worker.relayed.is_moved() or worker.relayed.next_is_ready:
            return True  # a sibling, or the next generation, which systemd starts also when the master has died
        return any(not sibling[Field.DRAINING] for sibling in worker.board.taken())

    def is_superseded(self) -> bool:
        """Whether new connections are the next generation's, which answers; this worker may not have begun to drain."""
        worker = self._worker
        if worker.board.is_superseded:
            return True
        return bool(worker.slot[Field.DRAINING]) and not worker.relayed.is_moved() and self.has_successor()

    def has_mail(self) -> bool:
        """Whether connections wait for this worker, or another, to take them from the mailbox."""
        box = self._worker.mailbox
        return box is not None and box.has_mail()

    def pass_on(self, client: Any, listener: str | None) -> bool:
        """Leave a connection of which nothing has been read to the next generation, if that takes what is new: the
        kernel may still give us some. Return whether it has gone."""
        box = self._worker.mailbox
        if box is None or not self.is_superseded():
            return False
        try:
            for _ in box.send([(mailbox.Origin(listener, served=False), client.fileno())], 1):
                client.close()
        except MailboxError as error:
            self._worker.log.warning("Mailbox: %s", error)
            return False
        return True

    def receive(
        self, origin: mailbox.Origin, connections: list[socket.socket], refused: list[str]
    ) -> Iterator[tuple[socket.socket, Any]]:
        """Yield what this worker is to serve of a message of the mailbox: connections, and the addresses of their
        clients."""
        for reason in refused:
            self._worker.log.warning("Mailbox: %s", reason)
        for connection in connections:
            try:
                address = connection.getpeername()
            except OSError:  # it has closed meanwhile
                connection.close()
                continue
            if not (origin.is_new and self.pass_on(connection, origin.listener)):
                yield connection, address

    def begin(self, holder: Holder) -> None:
        """Let connections go from now on, if somebody can take them: called once, as the drain begins."""
        self._holder = holder
        is_carrying = self.can_carry()
        if is_carrying and self._worker.mailbox:
            holder.leave_mailbox(self._worker.mailbox)
        self.has_begun = True
        self.is_carrying = is_carrying  # last: other threads send, too, from now on

    def can_carry(self) -> bool:
        """Whether somebody will read the mailbox. When nobody does, it would start the service again."""
        if self.has_begun and not self.is_carrying:
            return False
        return self._worker.mailbox is not None and self.has_successor()

    def carry(self, connections: Iterable[Movable]) -> None:
        """Send those of `connections` to the mailbox that have no request here."""
        worker, holder = self._worker, self._holder
        if worker.mailbox is not None and self.can_carry():
            try:
                self._send(worker.mailbox, connections, holder)
            except MailboxError as error:
                worker.log.warning("Mailbox: %s", error)
            else:
                return
        self.is_carrying = False
        worker.log.warning("Idle connections are closed from now on, not carried")
        if worker.mailbox and worker.board.stopping:  # what we have sent may have no other reader
            holder.read_mailbox(worker.mailbox)

    def _send(self, box: mailbox.Mailbox, connections: Iterable[Movable], holder: Holder) -> None:
        """:raises MailboxError: it takes no more; those left are still ours."""
        worker = self._worker
        movable = {c.fd: c for c in connections if c.is_movable and len(c.unread) <= mailbox.MAX_UNREAD}
        origins = [(mailbox.Origin(c.listener, c.served, _pairs(c.proxy), c.unread), fd) for fd, c in movable.items()]
        receivers = sum(1 for sibling in worker.board.taken() if not sibling[Field.DRAINING])
        batch = mailbox.batch_size(len(movable), receivers)
        if descriptors.first_reserved() < descriptors.LOW_LIMIT:
            batch = min(batch, descriptors.RESERVE - 1)
        for fds in box.send(origins, batch):
            worker.slot[Field.CARRIED_OUT] += len(fds)
            for fd in fds:
                holder.close_copy(movable[fd])


def _pairs(proxy: dict[str, Any] | None) -> tuple[tuple[str, Any], ...] | None:
    return tuple(sorted(proxy.items())) if proxy else None
