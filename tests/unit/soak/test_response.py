"""The responses that the client accepts."""

from __future__ import annotations

import pytest

from tests.soak.response import Response, parse

BODY = b"Hello from process 123, by listener http\n"
HEADERS = b"HTTP/1.1 200 OK\r\nServer: gunicorn\r\nContent-Type: text/html; charset=utf-8\r\n"
WHOLE = HEADERS + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY


def test_the_expected_response() -> None:
    assert parse(WHOLE) == Response(process=b"123")


@pytest.mark.parametrize("length", [0, 1, 20, len(HEADERS), len(WHOLE) - len(BODY), len(WHOLE) - 1])
def test_more_must_come(length: int) -> None:
    assert parse(WHOLE[:length]) is None


@pytest.mark.parametrize("header", [b"Connection: close\r\n", b"connection: Keep-Alive, Close\r\n"])
def test_a_close_is_noticed(header: bytes) -> None:
    found = parse(WHOLE.replace(b"Server:", header + b"Server:"))
    assert found == Response(process=b"123", closes=True)


@pytest.mark.parametrize(
    "received",
    [
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 2\r\n\r\nno",
        b"HTTP/1.1 500 Internal Server Error\r\n\r\n",
        WHOLE + b"HTTP/1.1",
        WHOLE.replace(b"Hello", b"Jello"),
        WHOLE.replace(b"Content-Length: 4", b"Content-Length: 3"),
        WHOLE.replace(b"Content-Length:", b"X-Length:"),
    ],
)
def test_another_response_is_a_failure(received: bytes) -> None:
    found = parse(received)
    assert found is not None
    assert found.failure
