"""Reads the body of a request before a thread runs the application, so that a slow client occupies no thread."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from gunicorn.http.body import ChunkedReader
from gunicorn.http.errors import ParseException
from gunicorn.http.message import Request

from flask_socketact.errors import SocketActError
from flask_socketact.http import request_body
from flask_socketact.http.memory import Memory
from flask_socketact.http.transport import WOULD_BLOCK

if TYPE_CHECKING:
    import io

    from flask_socketact.http.connection import Connection

#: Most bytes that are read at once.
STEP = 256 * 1024
#: Most bytes of bodies that one worker reads in advance. The application reads the rest of one more, in a thread.
MAX_WAITING = 128 * 1024 * 1024
_memory = Memory(MAX_WAITING)
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
#: How many bytes the line before a chunk has at most, usually.
_USUAL_LINE = 64
_CRLF = b"\r\n"


class Upload:
    """A request whose body is read into a buffer of the unreader, from which the application reads it.

    The application's reader parses the body. This only knows whether enough bytes have arrived.
    """

    __slots__ = ("_buffer", "_chunks", "_taken", "_wanted", "request")

    def __init__(self, request: Request, limit: int, buffer: io.BytesIO) -> None:
        """Take a request with a body. Only its first `limit` bytes are read; the application reads the rest."""
        reader = request_body.reader_of(request)
        self.request = request
        self._buffer = buffer
        self._chunks = _Chunks(request) if isinstance(reader, ChunkedReader) else None
        self._wanted = limit if self._chunks else min(limit, reader.length)
        self._taken = 0  # bytes of memory

    def read(self, connection: Connection) -> bool:
        """Read what has arrived; return whether the application can run now.

        :raises OSError: the connection is broken.
        """
        buffer = self._buffer
        while buffer.tell() < self._wanted and not (self._chunks and self._chunks.are_complete(buffer.getbuffer())):
            try:
                data = connection.receive_now(min(STEP, self._wanted - buffer.tell()))
            except WOULD_BLOCK:
                return not self._ask_to_continue(connection)
            if not data:
                break  # the application is told that the body has ended early
            buffer.write(data)
            if not self._take(buffer.tell()):
                break  # the application reads the rest
        return True

    def _take(self, size: int) -> bool:
        """Take memory for all `size` bytes of the buffer; return False if other bodies use too much."""
        if not _memory.take(size - self._taken):
            return False
        self._taken = size
        return True

    def release(self) -> None:
        """Give the memory back for others: a thread serves the request now, or the connection is closed."""
        _memory.give_back(self._taken)
        self._taken = 0

    def _ask_to_continue(self, connection: Connection) -> bool:
        """Send "100 Continue" to a client that waits for it (RFC 9110, section 10.1.1); False: that would block."""
        if self.request._expected_100_continue:
            try:
                connection.send_now(CONTINUE)
            except WOULD_BLOCK:
                return False
            self.request._expected_100_continue = False  # gunicorn would send it again
        return True


class _IncompleteError(SocketActError):
    """More bytes must arrive."""


class _Arrived:
    """Stands for gunicorn's unreader: nothing can be read beyond what has arrived."""

    @staticmethod
    def read(size: int | None = None, read_ahead: int | None = None) -> bytes:  # noqa: ARG004 (gunicorn's)
        raise _IncompleteError

    @staticmethod
    def unread(data: bytes) -> None:
        pass


class _Chunks:
    """How far a chunked body has arrived. The lines between the chunks are parsed by gunicorn."""

    __slots__ = ("_chunk_end", "_line", "_reader", "_searched")

    def __init__(self, request: Request) -> None:
        self._reader = request_body.LimitedChunkedReader(request, _Arrived)
        self._line = 0  # where the next line begins
        self._chunk_end = 0  # where the chunk that is arriving ends, with its CRLF; 0: a line is arriving
        self._searched = 0  # up to where the end of the trailers has been looked for; 0: they have not begun

    def are_complete(self, data: memoryview) -> bool:
        """Return whether the body is complete, or malformed, which the application's reader will say."""
        with data:
            try:
                while self._arrive(data):
                    pass
            except _IncompleteError:
                return False
            except ParseException:
                return True
            return True

    def _arrive(self, data: memoryview) -> bool:
        """Go on to the next chunk; return False if there is none.

        :raises _IncompleteError: it has not arrived.
        :raises ParseException: the line before it is malformed.
        """
        if self._chunk_end:
            if len(data) < self._chunk_end:
                raise _IncompleteError
            if data[self._chunk_end - len(_CRLF) : self._chunk_end] != _CRLF:
                return False
            self._line, self._chunk_end = self._chunk_end, 0
        if self._searched and not self._have_trailers_arrived(data):
            raise _IncompleteError
        size, rest = self._parse_line(data)
        if not 0 < size <= sys.maxsize:  # the last one; or one that the application's reader refuses
            return False
        self._chunk_end = self._line + rest + size + len(_CRLF)
        return True

    def _have_trailers_arrived(self, data: memoryview) -> bool:
        """Return whether it is time to parse the trailers: they have ended, or are too long, or have a bare LF."""
        new = bytes(data[self._searched - len(_CRLF + _CRLF) + 1 :])
        if (
            _CRLF + _CRLF in new
            or new.count(b"\n") != new.count(_CRLF)
            or len(data) - self._line > self._reader.limit_trailer_section
        ):
            return True
        self._searched = len(data)
        return False

    def _parse_line(self, data: memoryview) -> tuple[int, int]:
        """Return the size of the next chunk and the length of its line; 0: the body has ended, with its trailers."""
        for end in (self._line + _USUAL_LINE, len(data)):  # without a copy of all that has arrived, if that does
            line = bytes(data[self._line : end])
            try:
                size, rest = self._reader.parse_chunk_size(_Arrived, data=line)
            except _IncompleteError:
                continue
            return size, len(line) - len(rest or b"")
        raise _IncompleteError
