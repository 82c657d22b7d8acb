"""Reads the body of a request before a thread runs the application, so that a slow client occupies no thread."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gunicorn.http.body import ChunkedReader
from gunicorn.http.message import Request

from flask_socketact.http import request_body
from flask_socketact.http.transport import WOULD_BLOCK

if TYPE_CHECKING:
    from flask_socketact.http.connection import Connection

#: Most bytes that are read at once.
STEP = 256 * 1024
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
#: The line of the last chunk (RFC 9112, section 7.1). A chunk's data may look like it: then a thread waits for the
#: rest.
_LAST_CHUNK = re.compile(rb"(?:^|\r\n)0+[ \t]*(?:;[^\r\n]*)?\r\n")
#: Longest such line that the parser accepts, with the line end before it. Bytes.
_MAX_LINE = 8192 + 4


class Upload:
    """A request whose body is read into the buffer of gunicorn's unreader, from which the application reads it.

    The body is still parsed by gunicorn: this only knows whether enough bytes have arrived.
    """

    __slots__ = ("_is_chunked", "_searched", "_wanted", "request")

    def __init__(self, request: Request, limit: int) -> None:
        """Take a request with a body. Only its first `limit` bytes are read; the application reads the rest."""
        reader = request_body.reader_of(request)
        self.request = request
        self._is_chunked = isinstance(reader, ChunkedReader)
        self._wanted = limit if self._is_chunked else min(limit, reader.length)
        self._searched = 0  # how far the buffer was searched for the last chunk

    def read(self, connection: Connection) -> bool:
        """Read what has arrived; return whether the application can run now.

        :raises OSError: the connection is broken.
        """
        buffer = connection.parser.unreader.buf
        buffer.seek(0, 2)
        while not self._is_complete(buffer.getbuffer()):
            try:
                data = connection.receive_now(min(STEP, max(1, self._wanted - buffer.tell())))
            except WOULD_BLOCK:
                return not self._ask_to_continue(connection)
            if not data:
                return True  # the application is told that the body has ended early
            buffer.write(data)
        return True

    def _is_complete(self, data: memoryview) -> bool:
        with data:
            if len(data) >= self._wanted:
                return True
            if not self._is_chunked:
                return False
            found = _LAST_CHUNK.search(data, self._searched)
            if found is None:
                self._searched = max(0, len(data) - _MAX_LINE)
                return False
            self._searched = found.start()
            return bytes(data[found.end() - 2 :]).find(b"\r\n\r\n") >= 0  # the end of the trailers

    def _ask_to_continue(self, connection: Connection) -> bool:
        """Send "100 Continue" to a client that waits for it (RFC 9110, section 10.1.1); False: that would block."""
        if self.request._expected_100_continue:
            try:
                connection.send_now(CONTINUE)
            except WOULD_BLOCK:
                return False
            self.request._expected_100_continue = False  # gunicorn would send it again
        return True
