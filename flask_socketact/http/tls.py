"""One HTTP/1.1 connection with TLS. It cannot be handed over, because the state of TLS is in this process."""

from __future__ import annotations

import os
import socket
import ssl
from typing import Any

from gunicorn.http.message import Request

from flask_socketact.http.client_socket import TLSClientSocket
from flask_socketact.http.connection import Connection
from flask_socketact.http.settings_cache import Settings
from flask_socketact.http.states import NextRequest
from flask_socketact.http.transport import DISCARD_SIZE, WOULD_BLOCK

#: Most bytes in one record (RFC 8446, section 5.1). We send one at a time: what OpenSSL could not send must be offered
#: again from the same byte on, and not be shorter (SSL_write(3)).
_RECORD = 16 * 1024


class TLSConnection(Connection):
    """A connection with TLS. Its socket is non-blocking during the handshake and while headers are read."""

    __slots__ = ("_handshaken",)
    sock: ssl.SSLSocket

    def __init__(self, cfg: Settings, sock: ssl.SSLSocket, client: Any, server: Any, listener: str | None) -> None:
        super().__init__(cfg, sock, client, server, listener)
        self._handshaken = False

    @property
    def is_portable(self) -> bool:
        return False

    def lend_socket(self) -> TLSClientSocket:
        self.lent_socket = TLSClientSocket(self.sock)
        return self.lent_socket

    def read_request(self) -> Request | None:
        self.sock.setblocking(False)
        try:
            if not self._handshaken:
                self._handshake()
            return super().read_request()
        except WOULD_BLOCK:
            return None
        finally:
            self.sock.setblocking(True)

    def _handshake(self) -> None:
        try:
            self.sock.do_handshake()
        except WOULD_BLOCK:
            raise
        except OSError:
            self.broken = True
            raise
        self._handshaken = True

    def receive_now(self, size: int) -> bytes:
        return self.sock.recv(size)

    def send_now(self, data: bytes | memoryview) -> int:
        view, sent = memoryview(data), 0
        timeout = self.sock.gettimeout()
        self.sock.setblocking(False)
        try:
            while sent < len(view):
                sent += self.sock.send(view[sent : sent + _RECORD])
        except WOULD_BLOCK as error:
            if not sent:
                raise BlockingIOError from error
        finally:
            self.sock.settimeout(timeout)
        return sent

    def send_file_now(self, fd: int, offset: int, count: int) -> int:
        data = os.pread(fd, min(count, _RECORD), offset)
        return self.send_now(data) if data else 0

    def finish_request(self, request: Request) -> bool:
        can_go_on = super().finish_request(request)
        if self.sock.pending():  # decrypted, but not read by the parser
            self.next_request = NextRequest.UNPARSED
        return can_go_on

    def is_closed_by_client(self) -> bool:
        """Read the raw bytes: TLS ended with our FIN."""
        try:
            self.sock.setblocking(False)
            return not self.sock.recv(DISCARD_SIZE)
        except WOULD_BLOCK:
            return False
        except (OSError, ValueError):
            return True


def wrap(client: socket.socket, context: ssl.SSLContext, cfg: Settings) -> ssl.SSLSocket:
    """Begin TLS on `client`, a connection that has just been accepted. It does not block."""
    client.setblocking(False)
    return context.wrap_socket(
        client, server_side=True, suppress_ragged_eofs=cfg.suppress_ragged_eofs, do_handshake_on_connect=False
    )
