"""Where logs go outside the journal: streams of our own, which the application cannot close or replace."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TextIO

if TYPE_CHECKING:
    _ToStream = logging.StreamHandler[TextIO]
else:
    _ToStream = logging.StreamHandler  # generic for type checkers alone, in Python 3.10


def duplicate(stream: Any) -> TextIO | None:
    """Return a stream to where `stream` writes, line by line; None when it is no file, or closed.

    It is for the life of the process, and not for programs that are started.
    """
    try:
        descriptor = os.dup(stream.fileno())
    except (AttributeError, OSError, ValueError):
        return None
    return _open(descriptor, getattr(stream, "encoding", None))


def redirect(streams: Iterable[TextIO | None], file: Any) -> None:
    """Let `streams`, made by :func:`duplicate`, write to `file` from now on."""
    for stream in streams:
        if stream is not None:
            os.dup2(file.fileno(), stream.fileno(), inheritable=False)


def reopen_closed() -> None:
    """Put open streams in the place of those of ``sys`` that the application has closed: gunicorn flushes them."""
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        if getattr(getattr(sys, name), "closed", False):
            setattr(sys, name, _open(descriptor) or _open(os.open(os.devnull, os.O_WRONLY)))


def _open(descriptor: int, encoding: str | None = None) -> TextIO | None:
    """Return a stream without a buffer, and so without a lock: a process that is forked while another thread writes
    would wait for that for ever (Python makes new locks for the streams of ``sys`` alone)."""
    try:
        raw = io.FileIO(descriptor, "w", closefd=False)
    except OSError:  # closed
        return None
    return io.TextIOWrapper(raw, encoding=encoding, errors="backslashreplace", write_through=True)


class NeverRaises(logging.Handler):
    """Mixed into handlers, before them: a log call does not raise for a record that cannot be written."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's)
        with contextlib.suppress(Exception):  # sys.stderr is closed: there is nowhere left to say it
            super().handleError(record)


class StreamHandler(NeverRaises, _ToStream):
    """gunicorn's ``-``."""


class ErrorStream(io.TextIOBase):
    """``wsgi.errors``: writes where gunicorn's errors go. Nothing that happens there fails a request."""

    def __init__(self, stderr: TextIO | None, handlers: Callable[[], Iterable[logging.Handler]]) -> None:
        """`handlers` returns those of the error log; what is not in files goes to `stderr`."""
        self._stderr = stderr
        self._handlers = handlers

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        files = [handler for handler in self._handlers() if isinstance(handler, logging.FileHandler)]
        try:
            for handler in files:
                _write(handler, text)
            if not files and self._stderr is not None:
                self._stderr.write(text)
                self._stderr.flush()
        except (OSError, ValueError):  # a full disk, a reader that has gone, a stream that is closed
            pass
        return len(text)

    def close(self) -> None:
        """Close nothing: other requests write to it, too."""

    def fileno(self) -> int:
        if self._stderr is None:
            raise io.UnsupportedOperation("fileno")
        return self._stderr.fileno()


def _write(handler: logging.FileHandler, text: str) -> None:
    handler.acquire()
    try:
        if handler.stream is None:  # logging.config closes the files of all handlers; they open again when needed
            handler.stream = handler._open()
        handler.stream.write(text)
        handler.stream.flush()
    finally:
        handler.release()
