"""What the server sends on a WebSocket (RFC 6455), as far as is needed to add a close frame where a frame may begin."""

from __future__ import annotations

import errno
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

#: Statuses of close frames (RFC 6455, section 7.4.1, and IANA's registry).
NORMAL_CLOSURE, GOING_AWAY, SERVICE_RESTART = 1000, 1001, 1012
#: How long a client may take to answer a close frame in a drain; then its connection is ended. Seconds.
ANSWER_TIMEOUT = 1.0
#: How long a worker that exits waits for clients to close that have got a close frame and FIN. If it exited before, the
#: kernel would send a reset for what they still send, and they might lose the close frame. Seconds.
FAREWELL = 0.5

_SWITCHING = b"HTTP/1.1 101"
_END_OF_HEADERS = b"\r\n\r\n"
#: Longest response of a handshake, in bytes. What is longer is something else.
_MAX_HANDSHAKE = 16 * 1024
_FIN, _CLOSE, _OPCODE = 0x80, 0x08, 0x0F
_MASKED, _LENGTH = 0x80, 0x7F
#: Size of the field that holds the length of the payload, by the length in the second byte; otherwise none.
_LENGTH_SIZES = {126: 2, 127: 8}
_MASK_SIZE = 4


#: How long the application may take to handle what it has received, in seconds.
_HANDLING_TIME = 1.0
#: The same, when its view has ended.
_LAST_HANDLING_TIME = 0.1
#: How often we look whether a frame, or the application, has ended. Seconds.
_POLL = 0.002


class Reader:
    """Lets one thread of the application, which reads, and another, which closes, take turns.

    simple-websocket opens again when a message arrives after its ``close()``. Then the application could send what must
    not follow a close frame.
    """

    def __init__(self) -> None:
        self._has_ended = False
        self._lock = threading.Lock()  # held while the application handles what it has received, and while it closes

    def begin_receive(self) -> None:
        """The application has handled what it has received."""
        with suppress(RuntimeError):  # it has received nothing yet
            self._lock.release()

    def end_receive(self, data: bytes) -> bytes:
        """Return what the application receives: the end of the connection after its close frame."""
        self._lock.acquire(timeout=_HANDLING_TIME)
        return b"" if self._has_ended else data

    @contextmanager
    def closing(self) -> Iterator[None]:
        """Send a close frame in this block. What arrives afterwards is ignored."""
        is_ours = self._lock.acquire(timeout=_HANDLING_TIME)
        try:
            yield
        finally:
            self._has_ended = True
            if is_ours:
                self.begin_receive()


class SentFrames:
    """Follows the bytes that are sent on one connection: the response of the handshake, and then frames."""

    def __init__(self) -> None:
        # Looked up in the module at run time: under gevent it is gevent's. Reentrant, as sendall() calls send().
        self.lock = threading.RLock()  #: held while something is sent
        self.is_open = False  #: the handshake was completed with 101
        self.is_unknown = False  #: something was sent that we have not seen
        self.reader: Reader | None = None  #: if the application uses only one thread to read
        self.closed_at: float | None = None  #: when a close frame was sent: CLOCK_MONOTONIC, seconds
        self.is_ended = False  #: we have sent it: the application must not send anything after it
        self.handler: int | None = None  #: the thread of the application that handles what it has received
        self._begun = bytearray()  # a handshake or the header of a frame, incomplete
        self._payload_left = 0  # bytes of the current frame

    @property
    def may_close(self) -> bool:
        """Whether a close frame can be sent now."""
        is_between_frames = not self._begun and not self._payload_left
        return self.is_open and is_between_frames and self.closed_at is None and not self.is_unknown

    def begin_receive(self) -> None:
        """The application has handled what it has received."""
        self.handler = None
        if self.reader is not None:
            self.reader.begin_receive()

    def end_receive(self, data: bytes) -> bytes:
        """Return what the application receives. It handles that until it receives again, or closes."""
        self.handler = threading.get_ident() if data else None
        return data if self.reader is None else self.reader.end_receive(data)

    def check_open(self) -> None:
        """:raises BrokenPipeError: we have sent a close frame, after which the application must not send anything."""
        if self.is_ended:
            raise BrokenPipeError(errno.EPIPE, "The worker has closed the WebSocket")

    def _wait_for_handler(self) -> None:
        """Let another thread of the application handle what it has received: it may answer a close frame."""
        deadline = time.monotonic() + _LAST_HANDLING_TIME
        while self.handler not in (None, threading.get_ident()) and time.monotonic() < deadline:
            time.sleep(_POLL)

    def close(self, status: int, send: Callable[[bytes], int]) -> bool:
        """Send a close frame, if one may begin now; return whether that was possible, or none is needed.

        :raises OSError: the client has disconnected, or does not read.
        """
        if not self.lock.acquire(blocking=False):
            return False
        try:
            if self.may_close:
                frame = close_frame(status)
                self.is_ended = True
                self.add(frame[: send(frame)])
            return not self.is_open or self.closed_at is not None or self.is_unknown
        finally:
            self.lock.release()

    def close_when_possible(self, status: int, send: Callable[[bytes], int], seconds: float = math.inf) -> None:
        """The same, but wait for the end of the current frame, or of the WebSocket, up to some seconds."""
        deadline = time.monotonic() + seconds
        with suppress(OSError):
            while not self.close(status, send) and time.monotonic() < deadline:
                time.sleep(_POLL)

    def end(self, status: int, send: Callable[[bytes], int]) -> None:
        """The request has ended: let the application's other threads finish what they do, and send a close frame."""
        self._wait_for_handler()
        self.close_when_possible(status, send, _LAST_HANDLING_TIME)
        self.is_unknown = True

    def add(self, data: bytes | bytearray | memoryview) -> None:
        """Note bytes that were sent."""
        view = memoryview(data)
        while view and not self.is_unknown:
            if self._payload_left:
                skipped = min(self._payload_left, len(view))
                self._payload_left -= skipped
                view = view[skipped:]
            elif self.is_open:
                view = self._add_to_header(view)
            else:
                view = self._add_to_handshake(view)

    def _add_to_handshake(self, view: memoryview) -> memoryview:
        before = len(self._begun)
        self._begun += view
        end = self._begun.find(_END_OF_HEADERS)
        if end < 0:
            self.is_unknown = len(self._begun) > _MAX_HANDSHAKE
            return view[:0]
        self.is_open = self._begun.startswith(_SWITCHING)
        self.is_unknown = not self.is_open
        self._begun.clear()
        return view[end + len(_END_OF_HEADERS) - before :]

    def _add_to_header(self, view: memoryview) -> memoryview:
        """Add one byte to the header of a frame. Headers are short."""
        header = self._begun
        header.append(view[0])
        if len(header) >= 2:  # noqa: PLR2004 (the size of its fixed part)
            length = header[1] & _LENGTH
            size = _LENGTH_SIZES.get(length, 0)
            if len(header) == 2 + size + (_MASK_SIZE if header[1] & _MASKED else 0):
                self._payload_left = int.from_bytes(header[2 : 2 + size], "big") if size else length
                if header[0] & _OPCODE == _CLOSE:
                    self.closed_at = time.monotonic()
                header.clear()
        return view[1:]


def close_frame(status: int) -> bytes:
    """Return a close frame of a server (RFC 6455, section 5.5.1)."""
    return bytes((_FIN | _CLOSE, 2)) + status.to_bytes(2, "big")


@cache
def following_class(base: type[socket.socket]) -> Any:
    """Return a subclass of a class of sockets that follows what is sent. Under gevent the base is gevent's."""

    class FollowingSocket(base):  # type: ignore[valid-type, misc]
        """Has the attribute `frames`."""

        def send(self, data: Any, *args: Any) -> int:
            if self.gettimeout() is None:  # gevent's would send a part, which simple-websocket does not expect
                self.sendall(data, *args)
                return len(memoryview(data).cast("B"))
            return self._send(memoryview(data).cast("B"), *args)

        def _send(self, view: memoryview, *args: Any) -> int:
            frames: SentFrames = self.frames
            with frames.lock:
                frames.check_open()
                sent: int = super().send(view, *args)
                frames.add(view[:sent])
            return sent

        def recv(self, *args: Any) -> bytes:
            frames: SentFrames = self.frames
            frames.begin_receive()
            return frames.end_receive(bytes(super().recv(*args)))

        def close(self) -> None:
            super().close()
            self.frames.begin_receive()

        def sendall(self, data: Any, *args: Any) -> None:
            view = memoryview(data).cast("B")
            with self.frames.lock:
                while view:
                    view = view[self._send(view, *args) :]

    return FollowingSocket
