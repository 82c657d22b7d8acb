"""One HTTP/1.1 connection, on gunicorn's parser.

A request's head is read without waiting: while it is not whole, nothing but its bytes is kept, and
no thread. Body and answer are read and written by the thread that runs the application, which may wait.
"""

from __future__ import annotations

import io
import socket
import ssl
import time
from typing import Any

from gunicorn import http
from gunicorn.http import body
from gunicorn.http.message import Request
from gunicorn.http.unreader import SocketUnreader

from flask_socketact.settings import Settings

#: Sent at once; after each the client has shown that it still takes something. Bytes.
SEND_STEP = 64 * 1024
#: How long a thread reads what is left of a body that the application did not want, in seconds (gthread's).
BODY_REST_TIMEOUT = 5.0

_NOT_YET = (BlockingIOError, ssl.SSLWantReadError)


class Clock:
    """What a thread is doing for a connection, and since when: read by the supervisor."""

    __slots__ = ("began", "moved", "with_client")

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.began = self.moved = time.monotonic()
        self.with_client = False  #: waits for the client, to send or to take something


class Connection:
    """A client's connection; `busy` while a thread has it."""

    __slots__ = (
        *("armed", "buffered", "busy", "client", "clock", "closing", "deadline", "fd", "free_since", "is_ready"),
        *("listener", "parser", "partial", "proxy", "served", "server", "sock"),
    )

    def __init__(self, cfg: Settings, sock: socket.socket, client: Any, server: Any, listener: str | None) -> None:
        """Take `sock`, which blocks; `client` and `server` are addresses, `listener` is the listener's name."""
        self.sock = sock
        self.fd = sock.fileno()
        self.client = client
        self.server = server
        self.listener = listener
        self.parser = http.get_parser(cfg, sock, client)
        self.parser.unreader = Unreader(self)
        self.proxy: dict[str, Any] | None = None  #: what the PROXY protocol said, for all requests of the connection
        self.served = False  #: a request was answered on it, here or where it came from
        self.partial = 0  #: bytes of a head that is not whole, at the last attempt to parse it
        self.buffered = False  #: the next request, or a part of it, has been read already
        self.armed = False  #: in the epoll
        self.is_ready = False  #: has sent something, and waits for a thread
        self.busy = False
        self.closing = False  #: we have sent FIN and wait for the client's
        self.deadline = 0.0
        self.free_since = 0.0  #: when the last answer here ended: CLOCK_MONOTONIC, seconds; 0.0: there was none
        self.clock = Clock()

    @property
    def idle(self) -> bool:
        """Whether no byte of a request has been read into this process, and none is being answered."""
        return not (self.busy or self.is_ready or self.closing or self.partial or self.buffered)

    def has_sent(self) -> bool:
        """Whether something has come that nobody has read yet."""
        try:
            return bool(self.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except (OSError, ValueError):  # nothing, or a reset; TLS does not tell
            return False

    @property
    def portable(self) -> bool:
        """Whether another process could go on with it. The state of TLS is in this process."""
        return True

    def read_request(self) -> Request | None:
        """Return the next request when its head is whole, else None.

        :raises StopIteration: the client has closed, or must be closed.
        :raises gunicorn.http.errors.ParseException: as gunicorn's parser does.
        :raises OSError: the connection is broken.
        """
        parser, unreader = self.parser, self.parser.unreader
        self.buffered = False
        unreader.begin_head()
        try:
            request = next(parser)
        except _NOT_YET:
            parser.req_count -= 1
            self.partial = unreader.give_back_head()
            return None
        finally:
            unreader.in_head = False
        self.partial = 0
        if request.proxy_protocol_info:
            self.proxy = request.proxy_protocol_info
        elif self.proxy:
            request.proxy_protocol_info = self.proxy
        return request

    def receive_now(self, size: int) -> bytes:
        """Return what has arrived; b"" when the client has closed.

        :raises BlockingIOError: nothing has arrived.
        """
        return self.sock.recv(size, socket.MSG_DONTWAIT)

    def receive(self, size: int) -> bytes:
        """Wait for the next bytes of a body."""
        self.clock.with_client = True
        data = self.sock.recv(size)
        self.clock.with_client = False
        self.clock.moved = time.monotonic()
        return data

    def send(self, data: bytes) -> None:
        """Send all of `data`, in steps, so that a client that takes nothing shows."""
        self.clock.with_client = True
        if len(data) <= SEND_STEP:
            self.sock.sendall(data)
        else:
            view = memoryview(data)
            for start in range(0, len(view), SEND_STEP):
                self.sock.sendall(view[start : start + SEND_STEP])
                self.clock.moved = time.monotonic()
        self.clock.with_client = False
        self.clock.moved = time.monotonic()

    def send_file(self, file: Any, offset: int, count: int) -> None:
        """Send `count` bytes of `file` from `offset` on, in steps."""
        self.clock.with_client = True
        end = offset + count
        while offset < end:
            sent = self.sock.sendfile(file, offset=offset, count=min(SEND_STEP * 4, end - offset))
            if not sent:  # the file is shorter than it was
                break
            offset += sent
            self.clock.moved = time.monotonic()
        self.clock.with_client = False

    def finish_request(self, request: Request) -> bool:
        """Skip what the application left of the body, and forget the request; return whether
        the connection can be used again."""
        if not _is_read(request) and not self.parser.finish_body(deadline=time.monotonic() + BODY_REST_TIMEOUT):
            return False
        self.parser.mesg = None  # an idle connection keeps no headers
        self.buffered = self.parser.unreader.buf.tell() > 0 or self._pending() > 0
        self.served = True
        return True

    def _pending(self) -> int:
        """Bytes that have been taken from the kernel, but not by the parser."""
        return 0

    def begin_close(self) -> bool:
        """Send FIN; return whether to wait for the client's (RFC 9112, section 9.6): bytes
        that nobody reads would make the kernel send a reset, and cut the end of the answer off."""
        self.closing = True
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:  # it has gone already
            return False
        return not self.is_closed_by_client()

    def is_closed_by_client(self) -> bool:
        """Drop what has come, and return whether the client has closed."""
        try:
            return not self.sock.recv(SEND_STEP, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:  # a reset ends it, too
            return True


class TLSConnection(Connection):
    """A connection with TLS. The socket blocks but while a handshake or a head is read."""

    __slots__ = ("_handshaken",)
    sock: ssl.SSLSocket

    def __init__(self, cfg: Settings, sock: ssl.SSLSocket, client: Any, server: Any, listener: str | None) -> None:
        super().__init__(cfg, sock, client, server, listener)
        self._handshaken = False

    @property
    def portable(self) -> bool:
        return False

    def read_request(self) -> Request | None:
        self.sock.setblocking(False)
        try:
            if not self._handshaken:
                self.sock.do_handshake()
                self._handshaken = True
            return super().read_request()
        except _NOT_YET:
            return None
        finally:
            self.sock.setblocking(True)

    def receive_now(self, size: int) -> bytes:
        return self.sock.recv(size)

    def _pending(self) -> int:
        return self.sock.pending()

    def is_closed_by_client(self) -> bool:
        """Read below TLS: its layer ended with our FIN."""
        try:
            self.sock.setblocking(False)
            return not self.sock.recv(SEND_STEP)
        except _NOT_YET:
            return False
        except (OSError, ValueError):
            return True


class Unreader(SocketUnreader):
    """gunicorn's source of bytes: a head comes without waiting, and is kept until it is whole."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection.sock)
        self._connection = connection
        self._head = bytearray()  # of the attempt that is being made
        self.in_head = False

    def begin_head(self) -> None:
        self._head = bytearray(self.buf.getvalue())
        self.in_head = True

    def give_back_head(self) -> int:
        """Keep the bytes of an attempt for the next one, and return how many they are."""
        self.buf = io.BytesIO()
        return self.buf.write(self._head)

    def chunk(self, size_hint: int | None = None) -> bytes:
        if self.in_head:
            data = self._connection.receive_now(self.mxchunk)
            self._head += data
            return data
        size = self.mxchunk
        if size_hint and size_hint > size:
            size = min(size_hint, self.max_body_chunk)
        return self._connection.receive(size)


def _is_read(request: Request) -> bool:
    """Whether nothing of the body is left on the connection, as far as can be told without reading."""
    if request.body is None:
        return True
    reader = request.body.reader
    return isinstance(reader, body.LengthReader) and reader.length == 0 and not request.body.failed
