"""Errors in a request's body are the client's, not the application's: it is malformed, it ends early, or is cut off."""

from __future__ import annotations

import sys
import time
from functools import cache
from typing import Any

from gunicorn.http import body
from gunicorn.http.errors import ChunkMissingTerminator, InvalidChunkSize, NoMoreData, ParseException
from gunicorn.http.message import Request

from flask_socketact.errors import SocketActError
from flask_socketact.http.rules import MAX_LENGTH


class IncompleteBodyError(SocketActError, ChunkMissingTerminator):
    """The client has ended the connection before the end of the body.

    gunicorn responds with 400 to its base class, for chunked bodies and, here, for others.
    """

    def __str__(self) -> str:
        return "The request body is incomplete"


class LimitedChunkedReader(body.ChunkedReader):
    """gunicorn's reader of chunked bodies, with a limit on the size of a chunk."""

    def parse_chunk_size(self, unreader: Any, data: bytes | None = None) -> tuple[int, bytes | None]:
        size, rest = super().parse_chunk_size(unreader, data)
        if size > MAX_LENGTH:
            raise InvalidChunkSize(b"%x" % size)
        return size, rest


class _Reader:
    """gunicorn's body reader, with errors to which a web framework responds with 400.

    After an error each further call raises it again: what has been read never looks like the whole body.
    """

    __slots__ = ("_error", "reader")

    def __init__(self, reader: Any) -> None:
        self.reader = reader
        self._error: tuple[type[Exception], Any] | None = None  # type and arguments: its frames refer to this object

    def read(self, size: int) -> bytes:
        if self._error is not None:
            kind, arguments = self._error
            raise as_bad_request(kind(*arguments))
        reader = self.reader
        try:
            wanted = min(size, reader.length) if type(reader) is body.LengthReader else 0
            data: bytes = reader.read(size)
            if len(data) < wanted:  # gunicorn's reader takes it for the whole body
                raise NoMoreData  # noqa: TRY301 (as the reader of chunked bodies does)
        except NoMoreData as error:  # gunicorn ignores it, but a half-closed client still gets the response
            self._error = IncompleteBodyError, (b"",)
            raise as_bad_request(IncompleteBodyError(b"")) from error
        except (ParseException, OSError) as error:
            self._error = type(error), error.args
            raise as_bad_request(error) from error
        return data


def guard(request: Request) -> None:
    """Convert errors of the client while the application reads the body of `request`."""
    if isinstance(request.body, body.Body):  # HTTP/2 has another class
        reader = request.body.reader
        if type(reader) is body.ChunkedReader:  # it has not read anything yet
            reader = LimitedChunkedReader(request, request.unreader)
        request.body.reader = _Reader(reader)


def is_broken(request: Request) -> bool:
    """Return whether reading the body has failed, by the client's fault."""
    return isinstance(request.body, body.Body) and bool(request.body.failed)


def reader_of(request: Request) -> Any:
    """Return gunicorn's own reader of the body."""
    reader = request.body.reader
    return reader.reader if type(reader) is _Reader else reader


def is_read(request: Request) -> bool:
    """Return whether the whole body has been read. False if that is unknown without reading on."""
    found = request.body
    if found is None:
        return True
    reader = reader_of(request)
    return isinstance(reader, body.LengthReader) and reader.length == 0 and not found.failed


def discard(parser: Any, request: Request, seconds: float) -> bool:
    """Discard the rest of the body of `request`; return whether the connection can be used again.

    :raises gunicorn.http.errors.ParseException: it is malformed.
    :raises OSError: the connection is broken.
    """
    if is_read(request):
        return True
    try:
        return bool(parser.finish_body(time.monotonic() + seconds))
    except IncompleteBodyError:  # the client has its response already
        return False


def as_bad_request(error: Exception) -> Exception:
    """Return `error` as a subclass of its type and of werkzeug's BadRequest, if the application uses werkzeug.

    Flask responds to it with 400 and logs no traceback. An application can still catch it by its original type.
    """
    werkzeug = sys.modules.get("werkzeug.exceptions")
    if werkzeug is None:
        return error
    kind: type[Exception] = _kind(type(error), werkzeug.BadRequest)  # type: ignore[arg-type]  # types are hashable
    found = kind(*error.args)
    found.__dict__.update(error.__dict__)
    return found


@cache
def _kind(error: type[Exception], bad_request: type[Exception]) -> Any:
    # Set what BadRequest.__init__ would: the error's own __init__ takes other arguments.
    return type(error.__name__, (error, bad_request), {"__module__": error.__module__, "response": None})
