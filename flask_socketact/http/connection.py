"""One HTTP/1.1 connection, on gunicorn's parser.

A request's head is read without waiting: while it is not whole, nothing but its bytes is kept, and
no thread. Body and response are read and written by the thread that runs the application, which may wait.
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

#: How long a thread reads what is left of a body that the application did not want, in seconds (gthread's).
BODY_REST_TIMEOUT = 5.0
#: Read at once of what comes after we have closed, to be dropped. Bytes.
DISCARD_SIZE = 64 * 1024
#: One empty line before a request is no part of it (RFC 9112, section 2.2): clients send it after a body.
EMPTY_LINE = (b"", b"\r", b"\r\n")

#: Nothing has come yet, or there is no room to send.
WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class State(Enum):
    """What a connection waits for. Only methods of `Connection` change it.

    ====================  =====================================================  ====================================
    from                  by                                                     to
    ====================  =====================================================  ====================================
    ``IDLE``              :meth:`~Connection.enqueue`: something has come        ``QUEUED``
    ``READING_HEADERS``   :meth:`~Connection.enqueue`: more of the head has come  ``QUEUED``
    ``QUEUED``            :meth:`~Connection.begin_turn`: a thread is free       ``IN_REQUEST``
    ``IN_REQUEST``        :meth:`~Connection.end_turn`                           ``IDLE`` or ``READING_HEADERS``
    any                   :meth:`~Connection.begin_close`                        ``CLOSING``
    ====================  =====================================================  ====================================
    """

    IDLE = auto()  #: for its client: no part of the next request has come
    READING_HEADERS = auto()  #: for its client: the next request has begun, and its head is not whole
    QUEUED = auto()  #: for a thread
    IN_REQUEST = auto()  #: for the thread that has it
    CLOSING = auto()  #: for its client to close: we have sent FIN


class NextRequest(Enum):
    """What has been read of a connection beyond the last request."""

    NONE = auto()
    UNPARSED = auto()  #: something that the parser has not seen yet, perhaps a whole request
    INCOMPLETE = auto()  #: the parser has seen it, and needs more


class Connection:
    """A client's connection."""

    __slots__ = (
        *("broken", "client", "clock", "deadline", "fd", "free_since", "is_registered", "lent_socket", "listener"),
        *("next_request", "parser", "proxy", "served", "server", "sock", "state"),
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
        if self.parser.mesg_class is Request:
            self.parser.mesg_class = TrustingRequest
        self.proxy: dict[str, Any] | None = None  #: what the PROXY protocol said, for all requests of the connection
        self.served = False  #: a request was answered on it, here or where it came from
        self.state = State.IDLE
        self.next_request = NextRequest.NONE
        self.broken = False  #: sending to the client, or receiving from it, has failed
        self.lent_socket: ClientSocket | TLSClientSocket | None = None  #: what the application has of it
        self.is_registered = False  #: in the epoll
        self.deadline = 0.0  #: until when its client may take: CLOCK_MONOTONIC, seconds
        self.free_since = 0.0  #: when the last response here ended: CLOCK_MONOTONIC, seconds; 0.0: there was none
        self.clock = Clock()

    def enqueue(self) -> None:
        """Wait for a thread: something has come."""
        self.state = State.QUEUED

    def begin_turn(self) -> None:
        """Be served by a thread."""
        self.state = State.IN_REQUEST
        self.clock.restart()

    def end_turn(self) -> None:
        """Wait for the next request, or for the rest of its head."""
        self.state = State.READING_HEADERS if self.has_next_request else State.IDLE

    @property
    def has_next_request(self) -> bool:
        """Whether a part of the next request has been read into this process."""
        return self.next_request is not NextRequest.NONE

    @property
    def is_movable(self) -> bool:
        """Whether another process can go on with it now: it has no request of its own here, whatever waits in the
        kernel. A request whose head has begun to come is finished where it began."""
        return (
            self.is_portable
            and self.state not in (State.IN_REQUEST, State.CLOSING)
            and self.next_request is not NextRequest.INCOMPLETE
        )

    @property
    def unread(self) -> bytes:
        """What has been read beyond the last request."""
        return bytes(self.parser.unreader.buf.getvalue())

    def has_input(self) -> bool:
        """Whether something has come that nobody has read yet."""
        try:
            return bool(self.sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
        except (OSError, ValueError):  # nothing, or a reset; TLS does not tell
            return False

    @property
    def is_portable(self) -> bool:
        """Whether another process could go on with it. The state of TLS is in this process."""
        return True

    def lend_socket(self) -> ClientSocket | TLSClientSocket:
        """Return what the application may have of the socket, for one request."""
        self.lent_socket = ClientSocket(self.sock)
        return self.lent_socket

    def read_request(self) -> Request | None:
        """Return the next request when its head is whole, else None.

        :raises StopIteration: the client has closed, or must be closed.
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
        """Take what another process has read of the next request."""
        self.parser.unreader.buf.write(unread)
        self._note_unread()

    def receive_now(self, size: int) -> bytes:
        """Return what has arrived; b"" when the client has closed.

        :raises BlockingIOError: nothing has arrived.
        """
        return self.sock.recv(size, socket.MSG_DONTWAIT)

    # What is around the call to the kernel is written out in each of the next three: shared, by a decorator, it costs a
    # trivial request 2 % of its time.

    def receive(self, size: int) -> bytes:
        """Wait for the next bytes of a body.

        :raises OSError: the connection is broken.
        """
        clock = self.clock
        clock.waits_for_client = True
        try:
            while True:
                try:
                    return self.sock.recv(size)
                except WOULD_BLOCK:  # the application has set its duplicate not to block, and so ours
                    self._wait(select.POLLIN)
        except OSError:
            self.broken = True
            raise
        finally:
            clock.waits_for_client = False
            clock.last_progress = time.monotonic()

    def send(self, data: bytes) -> int:
        """Send all of `data`, and return how many bytes that are.

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

    sendall = send  #: for gunicorn, which sends "100 Continue" and early hints itself

    def send_file(self, file: Any, offset: int, count: int) -> None:
        """Send `count` bytes of `file` from `offset` on; fewer when it has become shorter.

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
        """Skip what the application left of the body, and forget the request; return whether
        the connection can be used again.

        :raises gunicorn.http.errors.ParseException: what was left is malformed.
        :raises OSError: the connection is broken.
        """
        if not request_body.is_read(request) and not self.parser.finish_body(time.monotonic() + BODY_REST_TIMEOUT):
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
        """Send FIN; return whether to wait for the client's (RFC 9112, section 9.6): bytes
        that nobody reads would make the kernel send a reset, and cut the end of the response off."""
        self.state, self.next_request = State.CLOSING, NextRequest.NONE
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:  # it has gone already
            return False
        return not self.is_closed_by_client()

    def is_closed_by_client(self) -> bool:
        """Drop what has come, and return whether the client has closed."""
        try:
            return not self.sock.recv(DISCARD_SIZE, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:  # a reset ends it, too
            return True
