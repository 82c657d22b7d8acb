"""The application's ``gunicorn.socket``: a duplicate of the client's socket, so that ours stays intact."""

from __future__ import annotations

import os
import socket
import ssl
from typing import Any, ClassVar


class ClientSocket:
    """A duplicate of a connection's socket, made on first use.

    The application may close it, detach it, or set a timeout; our socket does not change (simple-websocket closes it,
    gunicorn issue 3026). Reading an address or an option makes no duplicate.
    """

    __slots__ = ("_ours", "_theirs")
    #: False in a process that the application has forked. It has none of the worker's connections.
    in_worker: ClassVar[bool] = True

    def __init__(self, ours: socket.socket) -> None:
        self._ours = ours
        self._theirs: socket.socket | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._duplicate(), name)

    def getsockopt(self, *arguments: Any) -> Any:
        """As ``socket.getsockopt``."""
        return self._ours.getsockopt(*arguments)

    def getpeername(self) -> Any:
        """As ``socket.getpeername``."""
        return self._ours.getpeername()

    def getsockname(self) -> Any:
        """As ``socket.getsockname``."""
        return self._ours.getsockname()

    @property
    def is_used(self) -> bool:
        """Whether a duplicate was made."""
        return self._theirs is not None

    def take_back(self) -> None:
        """Close the duplicate, if there is one. Called when the request has ended."""
        if self._theirs is not None:
            self._theirs.close()
            self.restore()

    def restore(self) -> None:
        """Make our socket blocking again if the application changed that: both share ``O_NONBLOCK`` (fcntl(2))."""
        if self._theirs is not None and self._ours.fileno() >= 0 and self._ours.gettimeout() is None:
            self._ours.setblocking(True)

    def _duplicate(self) -> socket.socket:
        ours = self._ours
        if self._theirs is None and not self.in_worker:
            self._theirs = socket.socket()
            self._theirs.close()
        elif self._theirs is None:
            # Looked up in the module at run time: under gevent it is gevent's class.
            self._theirs = socket.socket(ours.family, ours.type, ours.proto, fileno=os.dup(ours.fileno()))
            self._theirs.settimeout(None)  # the application may have called socket.setdefaulttimeout()
        return self._theirs


class TLSClientSocket:
    """The same for TLS, whose state cannot be duplicated: it is our socket, and calls that would end it do nothing."""

    __slots__ = ("_ours", "_timeout", "is_used")

    def __init__(self, ours: ssl.SSLSocket) -> None:
        self._ours = ours
        self._timeout: float | None = None
        self.is_used = False  #: the application has sent or received on it, as far as is known

    def __getattr__(self, name: str) -> Any:
        if name not in ("getpeername", "getsockname", "getsockopt", "fileno"):
            self.is_used = True
        return getattr(self._ours, name)

    def close(self) -> None:
        """Do nothing. The worker closes the connection after the request."""

    def detach(self) -> int:
        """Return a duplicate of the descriptor. The caller owns it."""
        return os.dup(self._ours.fileno())

    def unwrap(self) -> socket.socket:
        """Refuse to end TLS.

        :raises OSError: always.
        """
        raise OSError("gunicorn.socket: only the server can end TLS")

    def settimeout(self, timeout: float | None) -> None:
        """Remember `timeout` for :meth:`gettimeout`, without effect."""
        self._timeout = timeout

    def setblocking(self, flag: bool) -> None:
        """Remember `flag` for :meth:`gettimeout`, without effect."""
        self._timeout = None if flag else 0.0

    def gettimeout(self) -> float | None:
        """Return the timeout that the application has set."""
        return self._timeout

    def take_back(self) -> None:
        """Do nothing: there is no duplicate."""

    def restore(self) -> None:
        """Do nothing: nothing can be changed."""
