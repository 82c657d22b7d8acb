"""Where a response ends: as its Content-Length says, or the connection is closed (RFC 9112, section 8)."""

from __future__ import annotations

import io
import os
import stat
from typing import Any

from gunicorn.http.wsgi import FileWrapper, Response
from gunicorn.http2.response import HTTP2Response


def start_again(response: Response) -> None:
    """Forget the status and the headers of `response`, which have not been sent, for other ones.

    PEP 3333: a call of ``start_response`` with ``exc_info`` replaces them. gunicorn's would add to them.
    """
    response.status = None
    response.headers = []
    response.response_length = None
    response.chunked = response.upgrade = False


def is_excessive(response: Response, produced: int) -> bool:
    """Return whether the `produced` bytes are more than the Content-Length of `response`. The rest is not sent."""
    return response.response_length is not None and produced > response.response_length


def end(response: Response, produced: int, log: Any) -> None:
    """Close the connection after `response` if it is shorter than its Content-Length, and log that; or that it is cut.

    Called before the headers are sent, if there was no body. `produced` are all bytes of the application.
    """
    length = response.response_length
    if length is None or response._omits_body:
        return
    request = response.req
    if response.sent < length:
        response.force_close()
        log.error(
            "The response to %s %s has only %s of the %s bytes of its Content-Length: its connection is closed",
            *(request.method, request.path, response.sent, length),
        )
    elif produced > length:
        log.warning(
            "The response to %s %s has more than the %s bytes of its Content-Length: the rest was not sent",
            *(request.method, request.path, length),
        )


def region_to_send(response: Response, body: FileWrapper, *, over_tls: bool = False) -> tuple[int, int] | None:
    """Return offset and size, in bytes, of what can be sent from the descriptor of `body`; None: it must be read.

    Only a plain file, as ``open()`` returns it, has the same bytes as its descriptor: objects that wrap, decode or
    compress another file have its descriptor, too. Without Content-Length a file that shrinks could not be told.
    """
    file, length = body.filelike, response.response_length
    if type(body) is not FileWrapper or length is None or response._omits_body:
        return None
    if isinstance(response, HTTP2Response) or not response.can_sendfile() or (response.cfg.is_ssl and not over_tls):
        return None
    if type(file) not in (io.BufferedReader, io.BufferedRandom, io.FileIO):
        return None
    if type(getattr(file, "raw", file)) is not io.FileIO:
        return None
    file.flush()
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode) or not status.st_size:  # a file of /proc has no size, but content
        return None
    offset = file.tell()  # not the descriptor's, which is ahead of it
    return offset, max(0, min(length - response.sent, status.st_size - offset))
