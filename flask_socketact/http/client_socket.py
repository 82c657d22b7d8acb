"""What the application gets as ``gunicorn.socket``: a client's socket that is its own."""

from __future__ import annotations

import os
import socket
import ssl
from typing import Any, ClassVar


class ClientSocket:
    """A duplicate of a connection's socket, made when the application first uses it.

    The application may close it, detach it, or give it a timeout: ours stays as it is (simple-websocket closes it,
    gunicorn issue 3026). A worker that draws on it only to look at the connection makes no duplicate.
    """

    __slots__ = ("_ours", "_theirs")
    #: False in a process that the application has forked: it has none of the worker's connections.
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
        """Whether there is a duplicate."""
        return self._theirs is not None

    def take_back(self) -> None:
        """Close the duplicate, if there is one, when the request has ended."""
        if self._theirs is not None:
            self._theirs.close()
            self.restore()

    def restore(self) -> None:
        """Let our socket block again, if the application has changed that: it is a property of the open socket, which
        both share (``O_NONBLOCK``, fcntl(2))."""
        if self._theirs is not None and self._ours.fileno() >= 0 and self._ours.gettimeout() is None:
            self._ours.setblocking(True)

    def _duplicate(self) -> socket.socket:
        ours = self._ours
        if self._theirs is None and not self.in_worker:
            self._theirs = socket.socket()
            self._theirs.close()
        elif self._theirs is None:
            # The class by its name in the module: under gevent this is gevent's.
            self._theirs = socket.socket(ours.family, ours.type, ours.proto, fileno=os.dup(ours.fileno()))
            self._theirs.settimeout(None)  # socket.setdefaulttimeout() of the application
        return self._theirs


class TLSClientSocket:
    """The same for TLS, whose state cannot be shared: what would end our socket ends nothing."""

    __slots__ = ("_ours", "_timeout")
    is_used = True  #: perhaps: it is not known

    def __init__(self, ours: ssl.SSLSocket) -> None:
        self._ours = ours
        self._timeout: float | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ours, name)

    def close(self) -> None:
        """Do nothing: the connection is closed when its request has ended."""

    def detach(self) -> int:
        """Return a duplicate of the descriptor, which the caller owns."""
        return os.dup(self._ours.fileno())

    def unwrap(self) -> socket.socket:
        """Refuse to end TLS.

        :raises OSError: always.
        """
        raise OSError("gunicorn.socket: TLS is ended by the server")

    def settimeout(self, timeout: float | None) -> None:
        """Note `timeout`, which is not followed."""
        self._timeout = timeout

    def setblocking(self, flag: bool) -> None:
        """Note `flag`, which is not followed."""
        self._timeout = None if flag else 0.0

    def gettimeout(self) -> float | None:
        """Return what was set."""
        return self._timeout

    def take_back(self) -> None:
        """Do nothing: there is no duplicate."""

    def restore(self) -> None:
        """Do nothing: nothing was changed."""
