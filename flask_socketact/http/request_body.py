"""A request's body that its client has broken off, or that is malformed: the client's error, not the view's."""

from __future__ import annotations

import sys
from functools import cache
from typing import Any

from gunicorn.http import body
from gunicorn.http.errors import ChunkMissingTerminator, NoMoreData, ParseException
from gunicorn.http.message import Request


class _Reader:
    """gunicorn's reader of a body; its errors are ones that a web framework answers with 400."""

    __slots__ = ("reader",)

    def __init__(self, reader: Any) -> None:
        self.reader = reader

    def read(self, size: int) -> bytes:
        try:
            data: bytes = self.reader.read(size)
        except NoMoreData as error:  # gunicorn ignores it, but who has closed one side only still takes an answer
            raise _as_bad_request(ChunkMissingTerminator(b"")) from error
        except (ParseException, OSError) as error:
            raise _as_bad_request(error) from error
        return data


def guard(request: Request) -> None:
    """Let errors of the client, while the application reads the body of `request`, be known as such."""
    if isinstance(request.body, body.Body):  # HTTP/2's is another
        request.body.reader = _Reader(request.body.reader)


def is_broken(request: Request) -> bool:
    """Whether the body could not be read to its end, which is its client's fault."""
    return isinstance(request.body, body.Body) and bool(request.body.failed)


def is_read(request: Request) -> bool:
    """Whether nothing of the body is left on the connection, as far as can be told without reading."""
    found = request.body
    if found is None:
        return True
    reader = found.reader
    if type(reader) is _Reader:
        reader = reader.reader
    return isinstance(reader, body.LengthReader) and reader.length == 0 and not found.failed


def _as_bad_request(error: Exception) -> Exception:
    """Return `error` as an exception that is werkzeug's BadRequest, too, where the application uses werkzeug: Flask
    answers it with 400, and without a traceback. An application that catches the error by its own type still does."""
    werkzeug = sys.modules.get("werkzeug.exceptions")
    if werkzeug is None:
        return error
    kind: type[Exception] = _kind(type(error), werkzeug.BadRequest)  # type: ignore[arg-type]  # types are hashable
    found = kind(*error.args)
    found.__dict__.update(error.__dict__)
    return found


@cache
def _kind(error: type[Exception], bad_request: type[Exception]) -> Any:
    # What BadRequest's __init__ would set is set here: the error's own takes other arguments.
    return type(error.__name__, (error, bad_request), {"__module__": error.__module__, "response": None})
