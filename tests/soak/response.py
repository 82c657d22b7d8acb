"""Responses of the example application: every byte is checked, at the cost of one regular expression."""

from __future__ import annotations

import re
from dataclasses import dataclass

REQUEST = b"GET / HTTP/1.1\r\nHost: soak\r\n\r\n"

_HEADERS = rb"((?:[!-9;-~]+:[^\r\n]*\r\n)*)"
_EXPECTED = re.compile(rb"HTTP/1\.1 200 OK\r\n" + _HEADERS + rb"\r\n(Hello from process ([0-9]+), by listener http\n)")
_LENGTH = re.compile(rb"^content-length: *([0-9]+)\r$", re.IGNORECASE | re.MULTILINE)
_CLOSE = re.compile(rb"^connection:[^\r\n]*\bclose\b", re.IGNORECASE | re.MULTILINE)


@dataclass(frozen=True)
class Response:
    """A complete response."""

    failure: str = ""  #: why it is not the expected one
    process: bytes = b""  #: PID of the worker, as the application has it
    closes: bool = False  #: whether it announces that the server closes the connection


def parse(received: bytes) -> Response | None:
    """Return the response in these bytes; None if more must come."""
    found = _EXPECTED.fullmatch(received)
    if found is None:
        return _parse_other(received)
    length = _LENGTH.search(found[1])
    if length is None or int(length[1]) != len(found[2]):
        return Response(f"wrong Content-Length: {found[1]!r}")
    return Response("", found[3], _CLOSE.search(found[1]) is not None)


def _parse_other(received: bytes) -> Response | None:
    headers, end, content = received.partition(b"\r\n\r\n")
    if not end:
        return None
    length = _LENGTH.search(headers + b"\r\n")
    if length is not None and len(content) < int(length[1]):
        return None
    return Response(f"unexpected response: {received.partition(bytes([13]))[0][:60]!r}", closes=True)
