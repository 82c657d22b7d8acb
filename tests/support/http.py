"""Single requests: as bytes on a socket, or by http.client; and what a client needs for TLS."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING

from flask_socketact.errors import RequestError
from tests.support.server import CONF, dial

if TYPE_CHECKING:
    from pathlib import Path


Connect = Callable[[], socket.socket]

ONE_WORKER = (*CONF, "--workers", "1", "app:app")
REQUEST = b"GET / HTTP/1.1\r\nHost: app\r\n\r\n"


def in_drain(listener: socket.socket) -> bool:
    """Return whether no process accepts a new connection from `listener`."""
    deadline = time.monotonic() + 0.2
    with dial(listener):
        while time.monotonic() < deadline:
            if not select.select([listener], [], [], 0)[0]:
                return False
            time.sleep(0.01)
    return True


def answer(client: socket.socket) -> bytes:
    """Read until the server closes."""
    received = b""
    while data := client.recv(65536):
        received += data
    return received


def read_until(client: socket.socket, end: bytes) -> bytes:
    """Read until `end` has arrived, and return all."""
    received = b""
    while end not in received:
        data = client.recv(65536)
        assert data, received
        received += data
    return received


#: Half of a header section.
HALF = b"GET / HTTP/1.1\r\nHost: a"


def exchange(client: socket.socket, request: bytes = REQUEST) -> dict[str, object]:
    """Send a request, and return the content of the response, parsed as JSON."""
    client.sendall(request)
    received = b""
    while b"\r\n\r\n" not in received or not received.endswith(b"}"):
        data = client.recv(65536)
        assert data, received
        received += data
    content: dict[str, object] = json.loads(received.partition(b"\r\n\r\n")[2])
    return content


def certificate(folder: Path) -> tuple[str, ...]:
    """Make a certificate, and return gunicorn's arguments for it."""
    key, cert = str(folder / "key.pem"), str(folder / "cert.pem")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=localhost"
    subprocess.run([*command.split(), "-keyout", key, "-out", cert], check=True, capture_output=True)
    return "--certfile", cert, "--keyfile", key


def answer_over_tls(client: ssl.SSLSocket) -> bytes:
    """Read until the server closes the TCP connection, which is an error of TLS."""
    received = b""
    with contextlib.suppress(ssl.SSLError):
        while data := client.recv(65536):
            received += data
    return received


def connect_and_reset(listener: socket.socket) -> None:
    client = dial(listener)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    client.close()


class Client:
    """One client, with at most one connection, kept open while both sides agree.

    With `auto_open` off, http.client neither retries nor reconnects.
    """

    def __init__(self, connect: Connect) -> None:
        self._connect = connect
        self._http = HTTPConnection("app")
        self._http.auto_open = 0
        self.closed_by_server = 0

    def exchange(self, method: str, target: str) -> tuple[int, bytes]:
        """Send a request, and return the status and the content of the response.

        :raises RequestError: No complete response came.
        """
        try:
            self._notice_close()
            if self._http.sock is None:
                self._http.sock = self._connect()
            self._http.request(method, target)
            response = self._http.getresponse()
            content = response.read()
        except (OSError, HTTPException) as error:
            self.close()
            raise RequestError(f"{type(error).__name__}: {error}") from error
        if response.will_close:
            self.closed_by_server += 1
            self.close()
        return response.status, content

    def close(self) -> None:
        self._http.close()

    def _notice_close(self) -> None:
        """See that the server has closed an idle connection, as every HTTP library does."""
        if self._http.sock is not None and select.select([self._http.sock], [], [], 0)[0]:
            self.closed_by_server += 1
            self.close()


def ask(connect: Connect, target: str = "/") -> tuple[int, bytes]:
    """Send one request on a connection of its own, and return the status and the content of the response."""
    client = Client(connect)
    try:
        return client.exchange("GET", target)
    finally:
        client.close()


def post(connect: Connect, target: str) -> None:
    """Send a request without content, on a connection of its own; the response must have the status 200."""
    client = Client(connect)
    assert client.exchange("POST", target)[0] == 200
    client.close()
