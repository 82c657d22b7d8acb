"""RFC 9112's rules for the Host header, the target and the version."""

from __future__ import annotations

import pytest
from gunicorn.config import Config
from gunicorn.http.errors import ParseException
from gunicorn.http.message import Request
from gunicorn.http.unreader import IterUnreader

from flask_socketact.http import rules


def read(line: str, *fields: str, parser: str = "auto") -> Request:
    """Parse a request, and check it."""
    cfg = Config()
    cfg.set("http_parser", parser)
    data = "\r\n".join([line, *fields, "", ""]).encode("latin-1")
    request = Request(cfg, IterUnreader([data]), ("127.0.0.1", 1))
    rules.check(request)
    return request


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize(
    "host",
    [
        *("a", "a.example", "a:80", "a:", "127.0.0.1:8000", "[::1]", "[::1]:80", "[::ffff:1.2.3.4]", "[v1.a:b]", "a_b"),
        *("xn--bcher-kva.example", "%41", "a,b", "A.Example.", "-", "~a!$&'()*+,;="),
    ],
)
def test_valid_hosts(host: str, version: str) -> None:
    assert ("HOST", host) in read(f"GET / HTTP/{version}", f"Host: {host}").headers


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize(
    "host",
    [
        *("", "a/b", "a b", "a, b", "user@a", "a:b", "a:80:80", ":80", "[::1", "::1", "[::1]80", "[:::]", "[1::2::3]"),
        *("[]", "[fe80::1%eth0]", "%zz", "%4", "a\xe4", "http://a", "a?b", "a#b", 'a"', "<a>", "[v.a]", "a\\b", "a|b"),
    ],
)
def test_invalid_hosts(host: str, version: str) -> None:
    with pytest.raises(ParseException):
        read(f"GET / HTTP/{version}", f"Host: {host}")


def test_missing_and_repeated_hosts() -> None:
    read("GET / HTTP/1.0")
    for fields in ([], ["X-Host: a"], ["Host: a", "Host: a"], ["Host: a", "X: y", "host: b"]):
        with pytest.raises(ParseException):
            read("GET / HTTP/1.1", *fields)


def test_host_of_an_absolute_target() -> None:
    """RFC 9112, section 3.2.2: it replaces the header, which must be there all the same."""
    request = read("GET http://b.example:81/path?q=://#f HTTP/1.1", "X: y", "Host: a")
    assert request.headers == [("HOST", "b.example:81"), ("X", "y")]
    assert request.path == "/path"
    read("GET http://b HTTP/1.0")
    read("OPTIONS * HTTP/1.1", "Host: a")
    read("CONNECT a:80 HTTP/1.1", "Host: a:80")
    with pytest.raises(ParseException):
        read("GET http://b/ HTTP/1.1")
    for target in ("http:///a", "http://u@b/", "http://b c/", "x?://a", "http://[::/", "1http://a/"):
        with pytest.raises(ParseException):
            read(f"GET {target} HTTP/1.1", "Host: a")


@pytest.mark.parametrize("sent", ["1.0", "1.1", "1.2", "1.9"])
def test_later_minor_versions_are_ours(sent: str) -> None:
    """For the parser in Python; the one in C refuses them."""
    assert read(f"GET / HTTP/{sent}", "Host: a", parser="python").version == ((1, 0) if sent == "1.0" else (1, 1))


def test_lengths() -> None:
    for length in (2**63 - 1, 0):
        read("POST / HTTP/1.1", "Host: a", f"Content-Length: {length}")
    for length in (2**63, 2**64, 10**400):
        with pytest.raises(ParseException):
            read("POST / HTTP/1.1", "Host: a", f"Content-Length: {length}")
