"""Rules of RFC 9112 for a request's headers that gunicorn's parsers do not check."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache

from gunicorn.http.body import LengthReader
from gunicorn.http.errors import InvalidHeader, InvalidRequestLine
from gunicorn.http.message import Request

#: The largest length that a signed integer of 64 bits holds. No body is longer, and no program of C counts further.
MAX_LENGTH = 2**63 - 1
#: The version that we speak. A later minor version is responded to with it (RFC 9110, section 6.2).
VERSION = (1, 1)
#: Longer values are no names of DNS (RFC 1035), and are not remembered: a client could fill memory with them.
_LONGEST_REMEMBERED = 255
#: uri-host [ ":" port ] (RFC 9110, section 7.2, and RFC 3986, section 3.2). An empty host is not valid in an http URI.
_HOST = re.compile(
    r"(?:(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+"
    r"|\[(?:v[0-9A-Fa-f]+\.[A-Za-z0-9._~!$&'()*+,;=:-]+|(?P<ipv6>[0-9A-Fa-f:.]+))\])"
    r"(?::[0-9]*)?"
)
#: absolute-form (RFC 9112, section 3.2.2).
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(?P<host>[^/?#]*)(?:[/?#].*)?")


def check(request: Request) -> None:
    """Check `request`, and adapt it: to the version that we speak, and to the host of an absolute-form target.

    :raises gunicorn.http.errors.ParseException: the response must be 400.
    """
    if not isinstance(request, Request):  # of uWSGI's protocol
        return
    if request.version > VERSION:  # noqa: PLR1730 (a call costs more)
        request.version = VERSION
    host = None
    for name, value in request.headers:
        if name == "HOST":
            host = value
            break
    if host is None:
        if request.version == VERSION:
            raise InvalidHeader("HOST", req=request)
    elif not is_host(host):
        raise InvalidHeader("HOST", req=request)
    if request.uri[0] != "/":
        _check_target(request)
    reader = request.body.reader
    if type(reader) is LengthReader and reader.length > MAX_LENGTH:
        raise InvalidHeader("CONTENT-LENGTH", req=request)


def check_beginning(headers: bytes) -> None:
    """Check what has arrived of a request that gunicorn's parser takes for incomplete. In C, it waits for more than the
    end of some malformed ones.

    :raises gunicorn.http.errors.InvalidRequestLine: the header section has ended.
    """
    if b"\r\n\r\n" in headers[len(b"\r\n") + 1 :]:  # an empty line may come first
        raise InvalidRequestLine(headers.lstrip().partition(b"\r\n")[0].decode("latin-1"))


def is_host(value: str) -> bool:
    """Return whether `value` is valid as that of the Host header."""
    return _is_usual_host(value) if len(value) <= _LONGEST_REMEMBERED else _is_host(value)


@lru_cache(1024)
def _is_usual_host(value: str) -> bool:
    return _is_host(value)


def _is_host(value: str) -> bool:
    found = _HOST.fullmatch(value)
    if found is None:
        return False
    if found["ipv6"] is not None:
        try:
            ipaddress.IPv6Address(found["ipv6"])
        except ValueError:
            return False
    return True


def _check_target(request: Request) -> None:
    """Check a target that is no path. The host of an absolute-form one replaces the Host header."""
    if request.method == "CONNECT" or request.uri == "*":
        return
    found = _ABSOLUTE.fullmatch(request.uri)
    if found is None or not is_host(found["host"]):
        raise InvalidRequestLine(request.uri)
    others = [(name, value) for name, value in request.headers if name != "HOST"]
    request.headers = [("HOST", found["host"]), *others]
