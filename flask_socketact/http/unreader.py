"""Where gunicorn's parser gets its bytes: a head comes without waiting, and is kept until it is whole."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from gunicorn.http.message import Request
from gunicorn.http.unreader import SocketUnreader

if TYPE_CHECKING:
    from flask_socketact.http.connection import Connection


class Unreader(SocketUnreader):
    """gunicorn's, for a :class:`~flask_socketact.http.connection.Connection`."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection.sock)
        self._connection = connection
        self.trusts_peer: bool | None = None  #: whether the connection comes from ``forwarded_allow_ips``
        self._headers = bytearray()  # of the attempt that is being made
        self.in_headers = False

    def begin_headers(self) -> None:
        self._headers = bytearray(self.buf.getvalue())
        self.in_headers = True

    def restore_headers(self) -> bytes:
        """Keep the bytes of an attempt for the next one, and return them."""
        head = bytes(self._headers)
        self.buf = io.BytesIO()
        self.buf.write(head)
        return head

    def chunk(self, size_hint: int | None = None) -> bytes:
        if self.in_headers:
            data = self._connection.receive_now(self.mxchunk)
            self._headers += data
            return data
        size = self.mxchunk
        if size_hint and size_hint > size:
            size = min(size_hint, self.max_body_chunk)
        return self._connection.receive(size)


class TrustingRequest(Request):
    """gunicorn's, which asks once a connection whether its peer is a trusted proxy: to parse the address with each
    request costs one of a trivial view a twentieth of its time."""

    unreader: Unreader

    def _peer_is_trusted_proxy(self) -> bool:
        if self.unreader.trusts_peer is None:
            self.unreader.trusts_peer = super()._peer_is_trusted_proxy()
        return self.unreader.trusts_peer
