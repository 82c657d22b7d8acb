"""Hand connections over to other workers through the mailbox, in a drain."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, Protocol

from flask_socketact.errors import MailboxError
from flask_socketact.handover import mailbox
from flask_socketact.linux import descriptors
from flask_socketact.shared.scoreboard import Field
from flask_socketact.workers.base import Lifecycle


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


class Carrier(Lifecycle):
    """Mixed into worker classes that keep connections alive."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._draining = False  #: the drain has begun, for connections, too
        self._carrying = False  #: ... and they go to the mailbox as soon as they have no request here

    @abstractmethod
    def read_mailbox(self, box: mailbox.Mailbox) -> None:
        """Take connections over, from now on."""

    @abstractmethod
    def leave_mailbox(self, box: mailbox.Mailbox) -> None:
        """Leave the mailbox to others: we would receive what we send."""

    @abstractmethod
    def forget(self, connection: Any) -> None:
        """Close our copy of a connection that has been sent."""

    def begin_to_carry(self) -> None:
        """Let connections go from now on, if somebody can take them: called once, as the drain begins."""
        carrying = self.may_carry()
        if carrying and self.mailbox:
            self.leave_mailbox(self.mailbox)
        self._draining = True
        self._carrying = carrying  # last: other threads send, too, from now on

    def may_carry(self) -> bool:
        """Whether somebody will read the mailbox. When nobody does, it would start the service again."""
        if self._draining and not self._carrying:
            return False
        return self.mailbox is not None and self.has_successor()

    def carry(self, connections: Iterable[Movable]) -> None:
        """Send those of `connections` to the mailbox that have no request here."""
        if self.mailbox is not None and self.may_carry():
            try:
                self._send_to(self.mailbox, connections)
            except MailboxError as error:
                self.log.warning("Mailbox: %s", error)
            else:
                return
        self._carrying = False
        self.log.warning("Idle connections are closed from now on, not carried")
        if self.mailbox and self.board.stopping:  # what we have sent may have no other reader
            self.read_mailbox(self.mailbox)

    def _send_to(self, box: mailbox.Mailbox, connections: Iterable[Movable]) -> None:
        """:raises MailboxError: it takes no more; those left are still ours."""
        movable = {c.fd: c for c in connections if c.is_movable and len(c.unread) <= mailbox.MAX_UNREAD}
        origins = [(mailbox.Origin(c.listener, c.served, _pairs(c.proxy), c.unread), fd) for fd, c in movable.items()]
        receivers = sum(1 for sibling in self.board.taken() if not sibling[Field.DRAINING])
        batch = mailbox.batch_size(len(movable), receivers)
        if descriptors.highest() < descriptors.FEW:
            batch = min(batch, descriptors.RESERVE - 1)
        for fds in box.send(origins, batch):
            self.slot[Field.CARRIED_OUT] += len(fds)
            for fd in fds:
                self.forget(movable[fd])


def _pairs(proxy: dict[str, Any] | None) -> tuple[tuple[str, Any], ...] | None:
    return tuple(sorted(proxy.items())) if proxy else None
