"""The source of bytes for gunicorn's parser: headers without blocking, kept until they are complete."""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING

from gunicorn.http.unreader import SocketUnreader

from flask_socketact.http.proxy_protocol import ProxyRequest

if TYPE_CHECKING:
    from flask_socketact.http.connection import Connection


class Unreader(SocketUnreader):
    """gunicorn's unreader, for a :class:`~flask_socketact.http.connection.Connection`."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection.sock)
        self._connection = connection
        self._ahead: io.BytesIO | None = None  # the beginning of a body, read in advance
        self.trusts_peer: bool | None = None  #: whether the peer is in ``forwarded_allow_ips``; None: not known yet
        self._headers = bytearray()  # bytes read by the current attempt to parse headers
        self.in_headers = False

    def begin_upload(self) -> io.BytesIO:
        """Return the buffer for the beginning of a body, with what has been read of it. It is read when this ends.

        gunicorn's reader of chunked bodies copies all that it gets from `read` for each chunk, so it must not be much.
        """
        begun = self.take_buffered()
        self._ahead = ahead = io.BytesIO()
        ahead.write(begun)
        return ahead

    def end_upload(self) -> None:
        """The buffer of :meth:`begin_upload` is complete."""
        if self._ahead is not None:
            self._ahead.seek(0)

    def end_body(self) -> None:
        """The request has ended: what has been read after it belongs to the next one."""
        if self._ahead is not None:
            rest = self.take_buffered()
            self.buf.write(rest)

    def _take_ahead(self, size: int) -> bytes:
        if self._ahead is None:
            return b""
        data = self._ahead.read(size)
        if len(data) < size:
            self._ahead = None
        return data

    def take_buffered(self) -> bytes:
        return bytes(super().take_buffered()) + self._take_ahead(sys.maxsize)

    def begin_headers(self) -> None:
        self._headers = bytearray(self.buf.getvalue())
        self.in_headers = True

    def restore_headers(self) -> bytes:
        """Restore the bytes of a failed attempt for the next one, and return them."""
        headers = bytes(self._headers)
        self.buf = io.BytesIO()
        self.buf.write(headers)
        return headers

    def chunk(self, size_hint: int | None = None) -> bytes:
        if self.in_headers:
            data = self._take_ahead(self.mxchunk) or self._connection.receive_now(self.mxchunk)
            self._headers += data
            return data
        size = self.mxchunk
        if size_hint and size_hint > size:
            size = min(size_hint, self.max_body_chunk)
        return self._take_ahead(size) or self._connection.receive(size)


class TrustingRequest(ProxyRequest):
    """gunicorn's request, which checks only once per connection whether the peer is a trusted proxy.

    Parsing the address for each request takes a twentieth of the time of a trivial one.
    """

    unreader: Unreader

    def _peer_is_trusted_proxy(self) -> bool:
        if self.unreader.trusts_peer is None:
            self.unreader.trusts_peer = super()._peer_is_trusted_proxy()
        return self.unreader.trusts_peer
