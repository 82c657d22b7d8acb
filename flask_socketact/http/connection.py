"""One HTTP/1.1 connection, on gunicorn's parser.

Headers are read without blocking: an incomplete header section occupies memory, but no thread. The body is read and the
response is sent by the thread that runs the application, which may block.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import Any

from gunicorn import http, util
from gunicorn.http.message import Request

from flask_socketact.http import proxy_protocol, request_body, rules
from flask_socketact.http.client_socket import ClientSocket, TLSClientSocket
from flask_socketact.http.plain import PlainParser, PlainRequest, has_no_body
from flask_socketact.http.settings_cache import Settings
from flask_socketact.http.states import NextRequest, State
from flask_socketact.http.transport import WOULD_BLOCK, Transport
from flask_socketact.http.unreader import TrustingRequest, Unreader
from flask_socketact.http.upload import Upload

#: How long a thread waits for the rest of a body that the application did not read, in seconds: it may be on its way.
#: If the client sends it later, the connection is closed, which needs no thread.
BODY_REST_TIMEOUT = 0.05
#: An empty line before a request is not part of it (RFC 9112, section 2.2). Some clients send it after a body.
EMPTY_LINE = (b"", b"\r", b"\r\n")


class Connection(Transport):
    """A client's connection."""

    __slots__ = (
        *("body_limit", "client", "closes", "closing_until", "deadline", "free_since", "lent_socket", "listener"),
        *("next_request", "parser", "plain", "proxy", "registered_events", "served", "server", "state", "upload"),
    )

    def __init__(self, cfg: Settings, sock: socket.socket, client: Any, server: Any, listener: str | None) -> None:
        """Take over `sock`, a blocking socket. `client` and `server` are addresses, `listener` is a name."""
        super().__init__(sock)
        self.client = client
        self.server = server
        self.listener = listener
        self.parser = http.get_parser(cfg, sock, client)
        self.parser.unreader = Unreader(self)
        if self.parser.mesg_class is Request:
            self.parser.mesg_class = TrustingRequest
        self.plain: PlainParser | None = None  #: the parser of plain requests; None: gunicorn parses all
        self.proxy: dict[str, Any] | None = None  #: from the PROXY protocol, for all requests of the connection
        self.served = False  #: a request was served on it, here or in another worker
        self.state = State.IDLE
        self.next_request = NextRequest.NONE
        self.lent_socket: ClientSocket | TLSClientSocket | None = None  #: the application's, during a request
        self.body_limit = 0  #: most bytes of a body to read before the application runs
        self.upload: Upload | None = None  #: the request whose body is being read
        self.closes = False  #: close the connection when that was sent
        self.closing_until = 0.0  #: when to close it even if its client sends: CLOCK_MONOTONIC, seconds
        self.registered_events = 0  #: in the epoll
        self.deadline = 0.0  #: when to close it unless its client sends: CLOCK_MONOTONIC, seconds
        self.free_since = 0.0  #: when the last response here ended: CLOCK_MONOTONIC, seconds; 0.0: there was none

    def enqueue(self) -> None:
        """Bytes have arrived: wait for a thread."""
        self.state = State.QUEUED

    def begin_turn(self) -> None:
        """A thread begins to serve the connection."""
        self.state = State.IN_REQUEST
        self.clock.restart()

    def end_turn(self) -> None:
        """Wait for the next request, or for the rest of it."""
        if self.next_request is NextRequest.BODY:
            self.state = State.READING_BODY
        else:
            self.state = State.READING_HEADERS if self.has_next_request else State.IDLE

    def begin_sending(self, *, closes: bool) -> None:
        """Wait for the client to take the end of a response, and then, perhaps, close."""
        self.closes = closes
        self.state = State.SENDING
        self.sock.setblocking(False)

    def end_sending(self) -> None:
        """The whole response was sent."""
        self.unsent = None
        self.sock.setblocking(True)

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
            and self.state not in (State.IN_REQUEST, State.SENDING, State.CLOSING)
            and self.next_request not in (NextRequest.INCOMPLETE, NextRequest.BODY)
        )

    @property
    def unread(self) -> bytes:
        """Bytes that have been read after the last request."""
        return bytes(self.parser.unreader.buf.getvalue())

    def lend_socket(self) -> ClientSocket | TLSClientSocket:
        """Return the application's ``gunicorn.socket``, for one request."""
        self.lent_socket = ClientSocket(self.sock)
        return self.lent_socket

    def read_request(self) -> Request | None:
        """Return the next request; None if its headers are incomplete, or the part of its body that is read in advance.

        :raises StopIteration: the client has closed the connection, or we must close it.
        :raises gunicorn.http.errors.ParseException: as gunicorn's parser does.
        :raises OSError: the connection is broken.
        """
        if self.upload is not None:
            return self._read_body(self.upload)
        try:
            request = self._parse_plain() or self._parse_with_gunicorn()
        except WOULD_BLOCK:
            return None
        except OSError:
            self.broken = True
            raise
        self.next_request = NextRequest.NONE
        if not has_no_body(request) and not request_body.is_read(request):
            request_body.guard(request)
            if self.body_limit:
                return self._read_body(Upload(request, self.body_limit, self.parser.unreader.begin_upload()))
        return request

    def _parse_plain(self) -> PlainRequest | None:
        """Return the next request if it is plain, and its headers have come in one piece.

        :raises BlockingIOError: nothing has arrived.
        """
        if self.plain is None or self.next_request is NextRequest.INCOMPLETE:
            return None
        unreader = self.parser.unreader
        data = unreader.take_buffered() if unreader.buf.tell() else self.receive_now(unreader.mxchunk)
        request = self.plain.parse(self.parser, data)
        if request is None:
            unreader.buf.write(data)
        else:
            request.proxy_protocol_info = self.proxy
        return request

    def _parse_with_gunicorn(self) -> Request:
        """Return the next request.

        :raises BlockingIOError: its headers are incomplete.
        :raises gunicorn.http.errors.ParseException: as gunicorn's parser does.
        """
        parser, unreader = self.parser, self.parser.unreader
        unreader.begin_headers()
        try:
            request: Request = next(parser)
        except WOULD_BLOCK:
            parser.req_count -= 1
            headers = unreader.restore_headers()
            if parser.req_count or parser.cfg.proxy_protocol == "off":
                rules.check_beginning(headers)
            self.next_request = NextRequest.NONE if headers in EMPTY_LINE else NextRequest.INCOMPLETE
            raise
        finally:
            unreader.in_headers = False
        rules.check(request)
        if proxy_protocol.tells_address(request.proxy_protocol_info):
            self.proxy = request.proxy_protocol_info
        else:
            request.proxy_protocol_info = self.proxy
        return request

    def _read_body(self, upload: Upload) -> Request | None:
        try:
            is_complete = upload.read(self)
        except OSError:
            self.broken = True
            raise
        if not is_complete:
            self.upload, self.next_request = upload, NextRequest.BODY
            return None
        upload.release()
        self.parser.unreader.end_upload()
        self.upload, self.next_request = None, NextRequest.NONE
        return upload.request

    def add_unread(self, unread: bytes) -> None:
        """Add bytes of the next request that another worker has read."""
        self.parser.unreader.buf.write(unread)
        self._note_unread()

    def finish_request(self, request: Request) -> bool:
        """Discard the rest of the body and the request; return whether the connection can be used again.

        :raises gunicorn.http.errors.ParseException: the rest of the body is malformed.
        :raises OSError: the connection is broken.
        """
        if not has_no_body(request):
            if not request_body.discard(self.parser, request, BODY_REST_TIMEOUT):
                return False
            self.parser.unreader.end_body()
        self.parser.mesg = None  # an idle connection keeps no headers
        self.served = True
        if self.parser.unreader.buf.tell():
            self._note_unread()
        return True

    def _note_unread(self) -> None:
        self.next_request = NextRequest.NONE if self.unread in EMPTY_LINE else NextRequest.UNPARSED

    @property
    def has_more_body(self) -> bool:
        """Whether the client has not sent all of a request's body, as far as that is known."""
        request = self.parser.mesg
        return request is not None and not request_body.is_read(request)

    def forget_request(self) -> None:
        """Free the request and what has been read of it. Nothing is read on the connection any more, only discarded."""
        self.release()
        self.parser.mesg = self.upload = None
        self.parser.unreader.take_buffered()

    def release(self) -> None:
        """Release the memory and the files of a request or a response that the loop has for the connection."""
        if self.upload is not None:
            self.upload.release()
        if self.unsent is not None:
            self.unsent.discard()

    def respond_late(self) -> None:
        """Tell a client that it has taken too long to send its request (408). It need not read that."""
        with suppress(OSError):
            util.write_error(self.sock, 408, "Request Timeout", "")

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
