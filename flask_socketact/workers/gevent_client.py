"""A client's connection under gevent. It tracks the bytes that were read, so that it can be handed over."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import gevent.socket
from gevent import monkey

from flask_socketact.http.connection import EMPTY_LINE
from flask_socketact.http.transport import DISCARD_SIZE
from flask_socketact.linux import socket_queues
from flask_socketact.workers.closing import CLOSE_TIMEOUT, MAX_CLOSING

#: How often a greenlet that waits for a client to close checks whether the worker drains, in seconds.
_CHECK_INTERVAL = 0.5


class Client(gevent.socket.socket):
    """Replaces gevent's socket in gunicorn's gevent worker."""

    def __init__(self, fd: int, listener: str | None, *, served: bool = False, unread: bytes = b"") -> None:
        """Take over descriptor `fd`. `unread` are bytes of the next request that another worker has read."""
        super().__init__(fileno=fd)
        self.settimeout(None)  # socket.setdefaulttimeout() of the application
        self.fd = fd
        self.listener = listener
        self.served = served
        self.free_since = time.monotonic()  #: seconds
        self.proxy: dict[str, Any] | None = None  # with the PROXY protocol it is not handed over
        self.unread = unread
        self._pending = unread
        self._begun = False  # a part of the next request has been read
        self._unparsed = False  # ... and the parser has not seen it yet
        self.was_handed_over = False  #: to another worker

    def recv(self, *args: Any) -> bytes:
        """As ``socket.recv``.

        :raises StopIteration: the connection was handed over. gunicorn then drops it.
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
        """Note that a request was served, and the bytes that have been read after it."""
        self.served = True
        self.free_since = time.monotonic()
        self.unread = unread
        self._begun = self._unparsed = unread not in EMPTY_LINE

    @property
    def is_idle(self) -> bool:
        """Whether no part of a request has been read. Valid only between requests."""
        return not self._begun and not self.was_handed_over

    @property
    def is_movable(self) -> bool:
        """Whether it can be handed over now. Valid only between requests."""
        return not self.was_handed_over and (not self._begun or self._unparsed)

    def close_copy(self) -> None:
        """Close our copy, after another worker was sent the connection."""
        self.was_handed_over = True
        self.close()


def end_input(client: Any) -> None:
    """End the input of `client`: a greenlet reads what has arrived, and then the end of the connection.

    gevent's own ``shutdown`` makes a waiting read fail, even if a request has arrived, and removes TLS.
    """
    _shut_down(client, socket.SHUT_RD)


def wait_for_close(client: Client, timeout: float, is_draining: Callable[[], bool], *, is_sending: bool) -> None:
    """Send FIN, and discard what `client` sends until it closes: see :class:`~.closing.Closing`.

    A client that `is_sending` may send nothing for `timeout` seconds; 0: no limit. In a drain it is waited for only
    while it takes what was sent.
    """
    _shut_down(client, socket.SHUT_WR)
    began = time.monotonic()
    last, patience = began + MAX_CLOSING, timeout or MAX_CLOSING
    deadline = began + (patience if is_sending else CLOSE_TIMEOUT)
    with suppress(OSError):  # a reset
        while (now := time.monotonic()) < min(deadline, last):
            if is_draining() and now > began + CLOSE_TIMEOUT and not socket_queues.unsent(client):
                return
            client.settimeout(min(_CHECK_INTERVAL, deadline - now))
            try:
                if not client.recv(DISCARD_SIZE):
                    return
            except TimeoutError:
                continue
            deadline = time.monotonic() + patience


def _shut_down(client: Any, how: int) -> None:
    plain = monkey.get_original("socket", "socket")(fileno=client.fileno())
    try:
        with suppress(OSError):  # the client has closed it
            plain.shutdown(how)
    finally:
        plain.detach()
