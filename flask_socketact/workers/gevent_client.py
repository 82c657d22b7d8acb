"""A client's connection under gevent, which knows what has been read of it, and can go on in another worker."""

from __future__ import annotations

import socket
import time
from contextlib import suppress
from typing import Any

import gevent.socket
from gevent import monkey

from flask_socketact.http.connection import EMPTY_LINE


class Client(gevent.socket.socket):
    """What gunicorn's gevent worker takes for the client's socket, in the place of gevent's own."""

    def __init__(self, fd: int, listener: str | None, *, served: bool = False, unread: bytes = b"") -> None:
        """Take descriptor `fd`. `unread` is what another process has read of the next request."""
        super().__init__(fileno=fd)
        self.settimeout(None)  # socket.setdefaulttimeout() of the application
        self.fd = fd
        self.listener = listener
        self.served = served
        self.free_since = time.monotonic()  #: seconds
        self.proxy: dict[str, Any] | None = None  # a connection with the PROXY protocol goes nowhere
        self.unread = unread
        self._pending = unread
        self._begun = False  # what has been read is a part of a request
        self._unparsed = False  # ... which the parser has not seen yet
        self.was_handed_over = False  #: to another worker

    def recv(self, *args: Any) -> bytes:
        """As ``socket.recv``.

        :raises StopIteration: the connection has gone to another worker, which ends it for gunicorn.
        """
        self._unparsed = False
        if self._pending:
            self._pending = b""
            self._begun = self.unread not in EMPTY_LINE
            return self.unread
        try:
            data: bytes = super().recv(*args)
        except OSError:
            if self.was_handed_over:
                raise StopIteration from None
            raise
        if not self._begun:
            self.unread += data
            self._begun = self.unread not in EMPTY_LINE
        return data

    def end_request(self, unread: bytes) -> None:
        """Note that a request has been answered, and what has been read beyond it."""
        self.served = True
        self.free_since = time.monotonic()
        self.unread = unread
        self._begun = self._unparsed = unread not in EMPTY_LINE

    @property
    def is_idle(self) -> bool:
        """Whether no part of a request has been read, unless one is being answered."""
        return not self._begun and not self.was_handed_over

    @property
    def is_movable(self) -> bool:
        """Whether another process can go on with it now, unless a request is being answered."""
        return not self.was_handed_over and (not self._begun or self._unparsed)

    def close_copy(self) -> None:
        """Close our copy of what has been sent to another worker."""
        self.was_handed_over = True
        self.close()


def end_input(client: Any) -> None:
    """Let whoever reads from `client` read what has come, and then the end.

    gevent's own ``shutdown`` fails a read that waits, even if a request has come, and takes TLS off.
    """
    plain = monkey.get_original("socket", "socket")(fileno=client.fileno())
    try:
        with suppress(OSError):  # it has gone by itself
            plain.shutdown(socket.SHUT_RD)
    finally:
        plain.detach()
