"""The application's ``gunicorn.socket``: a duplicate of the client's socket, so that ours stays intact."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any, ClassVar

from flask_socketact.http import websocket
from flask_socketact.http.websocket import ANSWER_TIMEOUT, Reader, SentFrames
from flask_socketact.linux import socket_queues

#: Methods after which we do not know what the application sends.
_UNFOLLOWED = ("detach", "dup", "sendfile", "sendmsg", "sendmsg_afalg", "sendto", "share")


class _LentSocket:
    """What the worker does with the socket that it lends to an application, with and without TLS."""

    __slots__ = ("_ours", "frames", "on_use")
    _ours: Any

    def __init__(self, ours: socket.socket) -> None:
        self._ours = ours
        self.frames: SentFrames | None = None  #: what the application has sent; None: it has made no use of the socket
        self.on_use: Callable[[], None] | None = None  #: called before the application first uses the socket

    def _follow(self) -> SentFrames:
        """Return `frames`. From now on the application uses the socket."""
        raise NotImplementedError

    def _send_now(self, data: bytes) -> int:
        raise NotImplementedError

    def send_close(self, status: int) -> None:
        """Send a close frame if one may begin now, unless the application is sending; and FIN."""
        if self.frames is not None:
            with suppress(OSError):  # the client has disconnected, or does not read
                self.frames.close(status, self._send_now)
        self._shut_down(socket.SHUT_WR)

    def close_when_possible(self, status: int) -> None:
        """Send a close frame as soon as one may begin. It may have to wait."""
        if self.frames is not None:
            self.frames.close_when_possible(status, self._send_now)

    def end_unanswered(self, now: float) -> None:
        """End the connection in both directions if the client had the time to answer a close frame.

        A thread of the application that reads from it gets its end. `now` is CLOCK_MONOTONIC, in seconds.
        """
        frames = self.frames
        if frames is None or frames.closed_at is None:
            return
        if socket_queues.unsent(self._ours):  # the close frame, or a message before it, is on its way to a slow reader
            frames.closed_at = now
        if now - frames.closed_at > ANSWER_TIMEOUT:
            self._shut_down(socket.SHUT_RDWR)

    def has_one_reader(self) -> Reader:
        """Note that the application uses only one thread to read; return its other threads' means to close."""
        frames = self._follow()
        if frames.reader is None:
            frames.reader = Reader()
        return frames.reader

    @property
    def worker_fd(self) -> int:
        """The descriptor of the worker's own socket."""
        return int(self._ours.fileno())

    def take_back(self, status: int) -> None:
        """End the application's use of the socket. Called when the request has ended.

        If the application has not closed its WebSocket, its client gets a close frame with `status`.
        """
        self.on_use = None
        if self.frames is not None:
            self.frames.end(status, self._send_now)

    def close_in_child(self) -> None:
        """Send nothing any more, in a process that the application has forked."""
        if self.frames is not None:
            self.frames.is_unknown = True

    def _shut_down(self, how: int) -> None:
        """Do so, but not by ``SSLSocket.shutdown``: it forgets the state of TLS, and readers fail then."""
        # Under gevent the class is gevent's.
        kind: Any = next(kind for kind in type(self._ours).__mro__ if kind.__name__ == "socket")
        with suppress(OSError):  # the client has closed it
            kind.shutdown(self._ours, how)


class ClientSocket(_LentSocket):
    """A duplicate of a connection's socket, made on first use.

    The application may close it, detach it, or set a timeout; our socket does not change (simple-websocket closes it,
    gunicorn issue 3026). Reading an address or an option makes no duplicate.
    """

    __slots__ = ("_theirs",)
    #: False in a process that the application has forked. It has none of the worker's connections.
    in_worker: ClassVar[bool] = True
    #: Class of the duplicates. The application may replace the name in the module; the gevent worker sets gevent's.
    kind: ClassVar[Any] = socket.socket

    def __init__(self, ours: socket.socket) -> None:
        super().__init__(ours)
        self._theirs: socket.socket | None = None

    def __getattr__(self, name: str) -> Any:
        duplicate = self._duplicate()
        if name in _UNFOLLOWED and self.frames is not None:
            self.frames.is_unknown = True
        return getattr(duplicate, name)

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

    def take_back(self, status: int) -> None:
        super().take_back(status)
        if self._theirs is not None:
            self._theirs.close()
            if self._theirs.fileno() >= 0:  # a file of makefile() keeps it open
                os.close(self._theirs.detach())
            self.restore()

    def _send_now(self, data: bytes) -> int:
        return int(self._ours.send(data, socket.MSG_DONTWAIT))

    def close_in_child(self) -> None:
        """Take the connection away from the duplicate, in a process that the application has forked.

        Its number stays in use: gevent cannot close it there, and a file that gets it must not be written to.
        """
        super().close_in_child()
        if self._theirs is not None and self._theirs.fileno() >= 0:
            null = os.open(os.devnull, os.O_RDWR)
            os.dup2(null, self._theirs.fileno(), inheritable=False)
            os.close(null)

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
            if self.on_use is not None:
                self.on_use()
            following = websocket.following_class(self.kind)
            theirs = following(ours.family, ours.type, ours.proto, fileno=os.dup(ours.fileno()))
            theirs.settimeout(None)  # the application may have called socket.setdefaulttimeout()
            self.frames = theirs.frames = SentFrames()
            self._theirs = theirs
        return self._theirs

    def _follow(self) -> SentFrames:
        frames: SentFrames = self._duplicate().frames  # type: ignore[attr-defined]  # see following_class()
        return frames


class TLSClientSocket(_LentSocket):
    """The same for TLS, whose state cannot be duplicated: it is our socket, and calls that would end it do nothing."""

    __slots__ = ("_timeout",)

    def __init__(self, ours: ssl.SSLSocket) -> None:
        super().__init__(ours)
        self._timeout: float | None = None

    def __getattr__(self, name: str) -> Any:
        if name not in ("getpeername", "getsockname", "getsockopt", "fileno"):
            self._follow().is_unknown |= name in _UNFOLLOWED
        return getattr(self._ours, name)

    @property
    def is_used(self) -> bool:
        """Whether the application has sent or received on it, as far as is known."""
        return self.frames is not None

    def _follow(self) -> SentFrames:
        if self.frames is None:
            if self.on_use is not None:
                self.on_use()
            self.frames = SentFrames()
        return self.frames

    def send(self, data: Any, *args: Any) -> int:
        """As ``socket.send``."""
        frames = self._follow()
        with frames.lock:
            frames.check_open()
            sent = int(self._ours.send(data, *args))
            frames.add(memoryview(data).cast("B")[:sent])
        return sent

    def sendall(self, data: Any, *args: Any) -> None:
        """As ``socket.sendall``."""
        view = memoryview(data).cast("B")
        with self._follow().lock:
            while view:
                view = view[self.send(view, *args) :]

    write = send

    def recv(self, *args: Any) -> bytes:
        """As ``socket.recv``."""
        frames = self._follow()
        frames.begin_receive()
        return frames.end_receive(self._ours.recv(*args))

    def _send_now(self, data: bytes) -> int:
        return int(self._ours.send(data))

    def close(self) -> None:
        """Do nothing. The worker closes the connection after the request."""
        if self.frames is not None:
            self.frames.begin_receive()

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

    def restore(self) -> None:
        """Do nothing: nothing can be changed."""
