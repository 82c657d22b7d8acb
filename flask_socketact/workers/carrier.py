"""Hand connections over to other workers through the mailbox."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Protocol, cast

from flask_socketact.errors import MailboxError
from flask_socketact.handover import mailbox
from flask_socketact.handover.steps import Step, reached
from flask_socketact.linux import descriptors
from flask_socketact.shared.slot import Field, Slot

if TYPE_CHECKING:
    from flask_socketact.workers.base import BaseWorker


class Movable(Protocol):
    """A connection that may be handed over."""

    fd: int
    listener: str | None  #: name of the listener that accepted it
    served: bool  #: a request was served on it
    proxy: dict[str, Any] | None  #: from the PROXY protocol

    @property
    def is_movable(self) -> bool:
        """Whether it can be handed over now: no request is in flight, and none has been read in part."""

    @property
    def unread(self) -> bytes:
        """Bytes that have been read after the last request."""


class ConnectionOwner(Protocol):
    """The owner of a worker's connections."""

    def read_mailbox(self, box: mailbox.Mailbox) -> None:
        """Begin to take over connections from the mailbox."""

    def leave_mailbox(self, box: mailbox.Mailbox) -> None:
        """Stop reading the mailbox, as we would receive what we send."""

    def close_copy(self, connection: Any) -> None:
        """Close our copy of a connection that was sent."""


class Carrier:
    """Hands the connections of one worker over, if another worker can take them."""

    def __init__(self, worker: BaseWorker) -> None:
        self._worker = worker
        self.owner = cast("ConnectionOwner", worker)
        self.has_begun = False  #: begin() was called
        self._given = 0  # connections, before the drain
        self.is_carrying = False  #: connections go to the mailbox as soon as they have no request in flight

    def siblings(self) -> list[Slot]:
        """Return the other workers of this master that accept connections."""
        worker = self._worker
        return [slot for slot in worker.board.taken() if slot[Field.ACCEPTING] and slot.index != worker.slot.index]

    def has_successor(self) -> bool:
        """Return whether another worker will read the mailbox when this one has exited."""
        worker = self._worker
        if worker.board.stopping or worker.board.is_deaf:
            return False
        if worker.mailbox is not None and worker.mailbox.is_private:
            return bool(self.siblings())
        if not worker.relayed.is_moved() or worker.relayed.may_hand_over:
            return True  # a sibling, or the next generation, which systemd starts even if the master has died
        return any(not sibling[Field.DRAINING] for sibling in worker.board.taken())

    def is_superseded(self) -> bool:
        """Return whether the next generation takes all new connections. This worker may not have begun to drain."""
        worker = self._worker
        if worker.board.is_superseded:
            return True
        return bool(worker.slot[Field.DRAINING]) and not worker.relayed.is_moved() and self.has_successor()

    def has_mail(self) -> bool:
        """Return whether connections wait in the mailbox, for this or any other worker."""
        box = self._worker.mailbox
        return box is not None and box.has_mail()

    def pass_on(self, client: Any, listener: str | None) -> bool:
        """Hand an unread connection over to the next generation, if that takes all new ones; return whether we did.

        The kernel may still wake this worker for a new connection.
        """
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
        """Yield the connections of a mailbox message that this worker must serve, and their clients' addresses."""
        for reason in refused:
            self._worker.log.warning("Mailbox: %s", reason)
        for connection in connections:
            try:
                address = connection.getpeername()
            except OSError:  # the client has disconnected
                connection.close()
                continue
            if not (origin.is_new and self.pass_on(connection, origin.listener)):
                yield connection, address

    @property
    def can_give(self) -> bool:
        """Whether connections can be given to siblings now, outside a drain."""
        worker = self._worker
        return worker.mailbox is not None and not self.has_begun and not self.is_superseded() and self.has_successor()

    def give(self, connections: Iterable[Movable]) -> None:
        """Send `connections` to siblings, outside a drain. Those that the mailbox does not take remain ours."""
        if self._worker.mailbox is not None:
            try:
                self._send(self._worker.mailbox, connections, 1)
            except MailboxError as error:
                self._worker.log.debug("Mailbox: %s", error)

    def begin(self) -> None:
        """Begin to hand connections over, if another worker can take them. Called once, when the drain begins."""
        self._given = self._worker.slot[Field.CARRIED_OUT]
        is_carrying = self.can_carry()
        if is_carrying and self._worker.mailbox:
            self.owner.leave_mailbox(self._worker.mailbox)
        self.has_begun = True
        self.is_carrying = is_carrying  # last: from now on other threads send, too

    @property
    def carried(self) -> int:
        """How many connections were handed over in the drain."""
        return self._worker.slot[Field.CARRIED_OUT] - self._given

    def can_carry(self) -> bool:
        """Return whether connections can be handed over. If no worker reads them, systemd would start the service."""
        if self.has_begun and not self.is_carrying:
            return False
        return self._worker.mailbox is not None and self.has_successor()

    def carry(self, connections: Iterable[Movable]) -> None:
        """Send those of `connections` to the mailbox that can be handed over now."""
        worker = self._worker
        if worker.mailbox is not None and self.can_carry():
            receivers = sum(1 for sibling in worker.board.taken() if not sibling[Field.DRAINING])
            movable = [each for each in connections if each.is_movable]
            try:
                self._send(worker.mailbox, movable, mailbox.batch_size(len(movable), receivers))
            except MailboxError as error:
                worker.log.warning("Mailbox: %s", error)
            else:
                return
        self.is_carrying = False
        worker.log.warning("Idle connections are closed from now on, not handed over")
        if worker.mailbox and worker.board.stopping:  # no other worker may be left to read what we have sent
            self.owner.read_mailbox(worker.mailbox)

    def _send(self, box: mailbox.Mailbox, connections: Iterable[Movable], batch: int) -> None:
        """Send movable connections, at most `batch` in a message.

        :raises MailboxError: the mailbox is full; the remaining connections are still ours.
        """
        worker = self._worker
        movable = {c.fd: c for c in connections if len(c.unread) <= mailbox.MAX_UNREAD}
        origins = [(mailbox.Origin(c.listener, c.served, _pairs(c.proxy), c.unread), fd) for fd, c in movable.items()]
        if descriptors.first_reserved() < descriptors.LOW_LIMIT:
            batch = min(batch, descriptors.RESERVE - 1)
        reached(Step.WORKER_SENDS)
        for fds in box.send(origins, batch):
            reached(Step.WORKER_HAS_SENT)
            worker.slot[Field.CARRIED_OUT] += len(fds)
            for fd in fds:
                self.owner.close_copy(movable[fd])


def _pairs(proxy: dict[str, Any] | None) -> tuple[tuple[str, Any], ...] | None:
    return tuple(sorted(proxy.items())) if proxy else None
