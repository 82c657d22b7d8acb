"""How much of a chunked body must arrive before a thread reads it."""

from __future__ import annotations

import pytest
from gunicorn.config import Config
from gunicorn.http.message import Request
from gunicorn.http.unreader import IterUnreader
from hypothesis import given
from hypothesis import strategies as st

from flask_socketact.http.upload import _Chunks

HEADERS = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"

chunks = st.lists(st.one_of(st.binary(min_size=1, max_size=300), st.just(b"\r\n0\r\n\r\n")), max_size=6)
extensions = st.sampled_from([b"", b";a=b", b' ; a="x"', b";" + b"e" * 200])
trailers = st.lists(st.sampled_from([b"X: y", b"X-Long: " + b"z" * 500]), max_size=2)


def request() -> Request:
    return Request(Config(), IterUnreader(iter([HEADERS])), ("127.0.0.1", 1))


def encode(content: list[bytes], extension: bytes, fields: list[bytes]) -> bytes:
    body = b"".join(b"%x%s\r\n%s\r\n" % (len(chunk), extension, chunk) for chunk in content)
    return body + b"0%s\r\n" % extension + b"".join(field + b"\r\n" for field in fields) + b"\r\n"


@given(chunks, extensions, trailers, st.lists(st.integers(1, 400), min_size=1, max_size=40))
def test_a_body_is_complete_with_its_last_byte(
    content: list[bytes], extension: bytes, fields: list[bytes], steps: list[int]
) -> None:
    """However it arrives, and whatever follows it."""
    body = encode(content, extension, fields)
    arrived, position = _Chunks(request()), 0
    for step in steps:
        position = min(position + step, len(body) - 1)
        assert not arrived.are_complete(memoryview(body[:position]))
    assert arrived.are_complete(memoryview(body))
    assert _Chunks(request()).are_complete(memoryview(body + b"GET / HTTP/1.1"))


@pytest.mark.parametrize(
    "body",
    [
        b"zz\r\n",
        b"-1\r\n",
        b"5\r\nhellox\r\n",
        b"5\r\nhello\nx",
        b"5;a\rb\r\nhello\r\n",
        b"0\r\nX: y\n\r\n",
        b"0\r\nContent-Length: 3\r\n\r\n",
        b"ffffffffffffffffff\r\n",
        b"0" * 9000,
    ],
)
def test_a_malformed_body_is_read_by_a_thread_at_once(body: bytes) -> None:
    """The application gets the error."""
    assert _Chunks(request()).are_complete(memoryview(body))
