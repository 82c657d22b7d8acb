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


class ClientSocket:
    """A duplicate of a connection's socket, made on first use.

    The application may close it, detach it, or set a timeout; our socket does not change (simple-websocket closes it,
    gunicorn issue 3026). Reading an address or an option makes no duplicate.
    """

    __slots__ = ("_ours", "_theirs", "frames", "on_use")
    #: False in a process that the application has forked. It has none of the worker's connections.
    in_worker: ClassVar[bool] = True
    #: Class of the duplicates. The application may replace the name in the module; the gevent worker sets gevent's.
    kind: ClassVar[Any] = socket.socket

    def __init__(self, ours: socket.socket) -> None:
        self._ours = ours
        self._theirs: socket.socket | None = None
        self.frames: SentFrames | None = None  #: what the application has sent; None: it has made no use of the socket
        self.on_use: Callable[[], None] | None = None  #: called before the application first uses the socket

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
        """Close the duplicate, if there is one. Called when the request has ended.

        If the application has not closed its WebSocket, its client gets a close frame with `status`.
        """
        self.on_use = None
        if self._theirs is not None:
            if self.frames is not None:
                self.frames.end(status, self._send_now)
            self._theirs.close()
            if self._theirs.fileno() >= 0:  # a file of makefile() keeps it open
                os.close(self._theirs.detach())
            self.restore()

    def _send_now(self, data: bytes) -> int:
        return self._ours.send(data, socket.MSG_DONTWAIT)

    def close_in_child(self) -> None:
        """Take the connection away from the duplicate, in a process that the application has forked.

        Its number stays in use: gevent cannot close it there, and a file that gets it must not be written to.
        """
        if self.frames is not None:
            self.frames.is_unknown = True
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

    def send_close(self, status: int) -> None:
        """Send a close frame if one may begin now, without waiting; and FIN."""
        _close(self.frames, status, self._send_now)
        _shut_down(self._ours, socket.SHUT_WR)

    def close_when_possible(self, status: int) -> None:
        """Send a close frame as soon as one may begin. It may have to wait."""
        if self.frames is not None:
            self.frames.close_when_possible(status, self._send_now)

    def is_unanswered(self, now: float) -> bool:
        """Return whether the client had the time to answer a close frame."""
        return _is_unanswered(self.frames, self._ours, now)

    def has_one_reader(self) -> Reader:
        """Note that the application uses only one thread to read; return its other threads' means to close."""
        return _reader_of(self._duplicate().frames)  # type: ignore[attr-defined]  # see following_class()

    @property
    def worker_fd(self) -> int:
        """The descriptor of the worker's own socket."""
        return self._ours.fileno()

    def end(self) -> None:
        """End the connection in both directions: a thread of the application that reads from it gets its end."""
        _shut_down(self._ours, socket.SHUT_RDWR)


class TLSClientSocket:
    """The same for TLS, whose state cannot be duplicated: it is our socket, and calls that would end it do nothing."""

    __slots__ = ("_ours", "_timeout", "frames", "on_use")

    def __init__(self, ours: ssl.SSLSocket) -> None:
        self._ours = ours
        self._timeout: float | None = None
        self.frames: SentFrames | None = None  #: as in `ClientSocket`
        self.on_use: Callable[[], None] | None = None  #: as in `ClientSocket`

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
            sent = self._ours.send(data, *args)
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

    def send_close(self, status: int) -> None:
        """Send a close frame if one may begin now, and FIN."""
        _close(self.frames, status, self._ours.send)
        _shut_down(self._ours, socket.SHUT_WR)

    def close_when_possible(self, status: int) -> None:
        """As in `ClientSocket`."""
        if self.frames is not None:
            self.frames.close_when_possible(status, self._ours.send)

    def is_unanswered(self, now: float) -> bool:
        """As in `ClientSocket`."""
        return _is_unanswered(self.frames, self._ours, now)

    def has_one_reader(self) -> Reader:
        """As in `ClientSocket`."""
        return _reader_of(self._follow())

    @property
    def worker_fd(self) -> int:
        """The descriptor of the worker's own socket."""
        return self._ours.fileno()

    def end(self) -> None:
        """End the connection in both directions: a thread of the application that reads from it gets its end."""
        _shut_down(self._ours, socket.SHUT_RDWR)

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

    def take_back(self, status: int) -> None:
        """As in `ClientSocket`. There is no duplicate."""
        self.on_use = None
        if self.frames is not None:
            self.frames.end(status, self._ours.send)

    def close_in_child(self) -> None:
        """As in `ClientSocket`."""
        if self.frames is not None:
            self.frames.is_unknown = True

    def restore(self) -> None:
        """Do nothing: nothing can be changed."""


def _reader_of(frames: SentFrames) -> Reader:
    if frames.reader is None:
        frames.reader = Reader()
    return frames.reader


def _close(frames: SentFrames | None, status: int, send: Callable[[bytes], int]) -> None:
    """Send a close frame, unless the application is sending, or another protocol is spoken."""
    if frames is not None:
        with suppress(OSError):  # the client has disconnected, or does not read
            frames.close(status, send)


def _is_unanswered(frames: SentFrames | None, ours: socket.socket, now: float) -> bool:
    if frames is None or frames.closed_at is None:
        return False
    if socket_queues.unsent(ours):  # the close frame, or a message before it, is on its way to a slow reader
        frames.closed_at = now
    return now - frames.closed_at > ANSWER_TIMEOUT


def _shut_down(ours: socket.socket, how: int) -> None:
    """Shut a connection down, but not by ``SSLSocket.shutdown``: it forgets the state of TLS, and readers fail then."""
    kind: Any = next(kind for kind in type(ours).__mro__ if kind.__name__ == "socket")  # under gevent it is gevent's
    with suppress(OSError):  # the client has closed it
        kind.shutdown(ours, how)
