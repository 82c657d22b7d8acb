"""One HTTP/1.1 connection, on gunicorn's parser.

Headers are read without blocking: an incomplete header section occupies memory, but no thread. The body is read and the
response is sent by the thread that runs the application, which may block.
"""

from __future__ import annotations

import select
import socket
import ssl
import time
from enum import Enum, auto
from typing import Any

from gunicorn import http
from gunicorn.http.message import Request

from flask_socketact.http import request_body
from flask_socketact.http.client_socket import ClientSocket, TLSClientSocket
from flask_socketact.http.clock import Clock
from flask_socketact.http.settings_cache import Settings
from flask_socketact.http.unreader import TrustingRequest, Unreader

#: How long a thread reads the rest of a body that the application did not read, in seconds (as in gthread).
BODY_REST_TIMEOUT = 5.0
#: How much is read and discarded at once after we have sent FIN. Bytes.
DISCARD_SIZE = 64 * 1024
#: An empty line before a request is not part of it (RFC 9112, section 2.2). Some clients send it after a body.
EMPTY_LINE = (b"", b"\r", b"\r\n")

#: Nothing has arrived yet, or the send buffer is full.
WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class State(Enum):
    """What a connection waits for. Only methods of `Connection` change it.

    ====================  =====================================================  ====================================
    from                  by                                                     to
    ====================  =====================================================  ====================================
    ``IDLE``              :meth:`~Connection.enqueue`: bytes have arrived        ``QUEUED``
    ``READING_HEADERS``   :meth:`~Connection.enqueue`: more bytes have arrived   ``QUEUED``
    ``QUEUED``            :meth:`~Connection.begin_turn`: a thread is free       ``IN_REQUEST``
    ``IN_REQUEST``        :meth:`~Connection.end_turn`                           ``IDLE`` or ``READING_HEADERS``
    any                   :meth:`~Connection.begin_close`                        ``CLOSING``
    ====================  =====================================================  ====================================
    """

    IDLE = auto()  #: for its client: no part of the next request has arrived
    READING_HEADERS = auto()  #: for its client: the headers of the next request are incomplete
    QUEUED = auto()  #: for a thread
    IN_REQUEST = auto()  #: for the thread that serves it
    CLOSING = auto()  #: for its client to close: we have sent FIN


class NextRequest(Enum):
    """What has been read from a connection after the last request."""

    NONE = auto()
    UNPARSED = auto()  #: bytes that the parser has not seen yet; maybe a whole request
    INCOMPLETE = auto()  #: headers that the parser has found incomplete


class Connection:
    """A client's connection."""

    __slots__ = (
        *("broken", "client", "clock", "deadline", "fd", "free_since", "is_registered", "lent_socket", "listener"),
        *("next_request", "parser", "proxy", "served", "server", "sock", "state"),
    )

    def __init__(self, cfg: Settings, sock: socket.socket, client: Any, server: Any, listener: str | None) -> None:
        """Take over `sock`, a blocking socket. `client` and `server` are addresses, `listener` is a name."""
        self.sock = sock
        self.fd = sock.fileno()
        self.client = client
        self.server = server
        self.listener = listener
        self.parser = http.get_parser(cfg, sock, client)
        self.parser.unreader = Unreader(self)
        if self.parser.mesg_class is Request:
            self.parser.mesg_class = TrustingRequest
        self.proxy: dict[str, Any] | None = None  #: from the PROXY protocol, for all requests of the connection
        self.served = False  #: a request was served on it, here or in another worker
        self.state = State.IDLE
        self.next_request = NextRequest.NONE
        self.broken = False  #: sending or receiving has failed
        self.lent_socket: ClientSocket | TLSClientSocket | None = None  #: the application's, during a request
        self.is_registered = False  #: in the epoll
        self.deadline = 0.0  #: when to close it unless its client sends: CLOCK_MONOTONIC, seconds
        self.free_since = 0.0  #: when the last response here ended: CLOCK_MONOTONIC, seconds; 0.0: there was none
        self.clock = Clock()

    def enqueue(self) -> None:
        """Bytes have arrived: wait for a thread."""
        self.state = State.QUEUED

    def begin_turn(self) -> None:
        """A thread begins to serve the connection."""
        self.state = State.IN_REQUEST
        self.clock.restart()

    def end_turn(self) -> None:
        """Wait for the next request, or for the rest of its headers."""
        self.state = State.READING_HEADERS if self.has_next_request else State.IDLE

    @property
    def has_next_request(self) -> bool:
        """Whether a part of the next request has been read into this process."""
        return self.next_request is not NextRequest.NONE

    @property
    def is_movable(self) -> bool:
        """Whether the connection can be handed over now: no request is in flight, and none has been read in part.

        Bytes that wait in the kernel do not matter. A request that has been read in part is finished here.
        """
        return (
            self.is_portable
            and self.state not in (State.IN_REQUEST, State.CLOSING)
            and self.next_request is not NextRequest.INCOMPLETE
        )

    @property
    def unread(self) -> bytes:
        """Bytes that have been read after the last request."""
        return bytes(self.parser.unreader.buf.getvalue())

    def has_input(self) -> bool:
        """Return whether unread bytes wait in the kernel."""
        try:
            return bool(self.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except (OSError, ValueError):  # nothing, or a reset; with TLS it is unknown
            return False

    @property
    def is_portable(self) -> bool:
        """Whether the connection can be handed over at all. TLS cannot: its state is in this process."""
        return True

    def lend_socket(self) -> ClientSocket | TLSClientSocket:
        """Return the application's ``gunicorn.socket``, for one request."""
        self.lent_socket = ClientSocket(self.sock)
        return self.lent_socket

    def read_request(self) -> Request | None:
        """Return the next request; None if its headers are incomplete.

        :raises StopIteration: the client has closed the connection, or we must close it.
        :raises gunicorn.http.errors.ParseException: as gunicorn's parser does.
        :raises OSError: the connection is broken.
        """
        parser, unreader = self.parser, self.parser.unreader
        unreader.begin_headers()
        try:
            request = next(parser)
        except WOULD_BLOCK:
            parser.req_count -= 1
            has_begun = unreader.restore_headers() not in EMPTY_LINE
            self.next_request = NextRequest.INCOMPLETE if has_begun else NextRequest.NONE
            return None
        except OSError:
            self.broken = True
            raise
        finally:
            unreader.in_headers = False
        self.next_request = NextRequest.NONE
        if request.proxy_protocol_info:
            self.proxy = request.proxy_protocol_info
        elif self.proxy:
            request.proxy_protocol_info = self.proxy
        if not request_body.is_read(request):
            request_body.guard(request)
        return request

    def add_unread(self, unread: bytes) -> None:
        """Add bytes of the next request that another worker has read."""
        self.parser.unreader.buf.write(unread)
        self._note_unread()

    def receive_now(self, size: int) -> bytes:
        """Return the bytes that have arrived, without blocking; b"" if the client has closed.

        :raises BlockingIOError: nothing has arrived.
        """
        return self.sock.recv(size, socket.MSG_DONTWAIT)

    # The next three repeat the code around the system call: as a decorator it costs a trivial request 2 % of its time.

    def receive(self, size: int) -> bytes:
        """Wait for bytes of a body, and return them.

        :raises OSError: the connection is broken.
        """
        clock = self.clock
        clock.waits_for_client = True
        try:
            while True:
                try:
                    return self.sock.recv(size)
                except WOULD_BLOCK:  # the application set its duplicate to non-blocking, and so ours
                    self._wait(select.POLLIN)
        except OSError:
            self.broken = True
            raise
        finally:
            clock.waits_for_client = False
            clock.last_progress = time.monotonic()

    def send(self, data: bytes) -> int:
        """Send all of `data`, and return its length in bytes.

        :raises OSError: the connection is broken.
        """
        clock = self.clock
        clock.waits_for_client = True
        try:
            sent = self._send_some(data)
            if sent < len(data):
                view = memoryview(data)
                while sent < len(data):
                    sent += self._send_some(view[sent:])
        except OSError:
            self.broken = True
            raise
        finally:
            clock.waits_for_client = False
            clock.last_progress = time.monotonic()
        return sent

    sendall = send  #: for gunicorn, which sends "100 Continue" and early hints

    def send_file(self, file: Any, offset: int, count: int) -> None:
        """Send `count` bytes of `file` from `offset` on; fewer if the file was truncated.

        :raises OSError: the connection is broken, or the file cannot be read.
        """
        clock = self.clock
        clock.waits_for_client = True
        try:
            self.sock.sendfile(file, offset=offset, count=count)
        except OSError:
            self.broken = True
            raise
        finally:
            clock.waits_for_client = False
            clock.last_progress = time.monotonic()

    def finish_request(self, request: Request) -> bool:
        """Discard the rest of the body and the request; return whether the connection can be used again.

        :raises gunicorn.http.errors.ParseException: the rest of the body is malformed.
        :raises OSError: the connection is broken.
        """
        if not request_body.discard(self.parser, request, BODY_REST_TIMEOUT):
            return False
        self.parser.mesg = None  # an idle connection keeps no headers
        self.served = True
        if self.parser.unreader.buf.tell():
            self._note_unread()
        return True

    def _note_unread(self) -> None:
        self.next_request = NextRequest.NONE if self.unread in EMPTY_LINE else NextRequest.UNPARSED

    def _send_some(self, data: bytes | memoryview) -> int:
        try:
            return self.sock.send(data)
        except WOULD_BLOCK:  # as in receive()
            self._wait(select.POLLOUT)
            return 0

    def _wait(self, event: int) -> None:
        poll = select.poll()
        poll.register(self.sock, event)
        poll.poll()

    def begin_close(self) -> bool:
        """Send FIN; return whether to wait for the client's FIN before closing (RFC 9112, section 9.6).

        If we close with bytes unread, the kernel sends a reset, and the client may lose the end of the response.
        """
        self.state, self.next_request = State.CLOSING, NextRequest.NONE
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:  # the client has already closed it
            return False
        return not self.is_closed_by_client()

    def is_closed_by_client(self) -> bool:
        """Discard what has arrived, and return whether the client has closed the connection."""
        try:
            return not self.sock.recv(DISCARD_SIZE, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:  # a reset closes it, too
            return True
