"""The load of the tests: each way for a request to fail is counted."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from tests.support.load import Load

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@contextmanager
def responding(response: bytes) -> Iterator[socket.socket]:
    """Send `response` to each request, and close the connection if it is incomplete or says so."""
    listener = socket.create_server(("127.0.0.1", 0))
    closes = response == b"" or b"close" in response or b"Length: 9" in response

    def serve(client: socket.socket) -> None:
        with client, suppress(OSError):
            while client.recv(65536):
                client.sendall(response)
                if closes:
                    return

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=serve, args=(client,), daemon=True).start()

    thread = threading.Thread(target=accept)
    thread.start()
    try:
        yield listener
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


def run(response: bytes, kind: str) -> Load:
    with responding(response) as listener:
        with Load(lambda: socket.create_connection(listener.getsockname()), {kind: 1}) as load:
            time.sleep(0.5)
    assert load.requests > 0
    return load


@pytest.mark.parametrize(
    ("response", "kind", "failure"),
    [
        (b"HTTP/1.1 204 No Content\r\n\r\n", "keep-alive", "status 204 b''"),
        (b"HTTP/1.1 500 Error\r\nContent-Length: 2\r\n\r\nno", "new connection", "status 500 b'no'"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", "keep-alive", "closed within the"),
        (b"", "new connection", "closed without"),
        (OK, "streamed response", "wrong content: b'ok'"),
    ],
)
def test_failures_are_counted(response: bytes, kind: str, failure: str) -> None:
    load = run(response, kind)
    assert load.failures().total() == load.requests
    assert all(text.startswith(f"{kind}: {failure}") for text in load.failures())


@pytest.mark.parametrize("kind", ["new connection", "keep-alive"])
def test_announced_closes_are_counted(kind: str) -> None:
    load = run(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), kind)
    assert not load.failures()
    assert load.closed_by_server == load.requests


def test_no_failures() -> None:
    load = run(OK, "keep-alive")
    assert not load.failures()
    assert load.closed_by_server == 0
    assert 0 < load.longest_wait() < 5
