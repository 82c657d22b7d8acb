"""Streams for logs outside the journal, which the application cannot close or replace."""

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
    """Return an unbuffered stream to the same file as `stream`; None if that is closed, or is not a file.

    It stays open as long as the process. Child processes do not inherit it.
    """
    try:
        descriptor = os.dup(stream.fileno())
    except (AttributeError, OSError, ValueError):
        return None
    return _open(descriptor, getattr(stream, "encoding", None))


def redirect(streams: Iterable[TextIO | None], file: Any) -> None:
    """Redirect `streams`, which :func:`duplicate` returned, to `file`."""
    for stream in streams:
        if stream is not None:
            os.dup2(file.fileno(), stream.fileno(), inheritable=False)


def reopen_closed() -> None:
    """Replace ``sys.stdout`` and ``sys.stderr`` if the application has closed them, because gunicorn flushes them."""
    for descriptor, name in ((1, "stdout"), (2, "stderr")):
        if getattr(getattr(sys, name), "closed", False):
            setattr(sys, name, _open(descriptor) or _open(os.open(os.devnull, os.O_WRONLY)))


def _open(descriptor: int, encoding: str | None = None) -> TextIO | None:
    """Return an unbuffered stream; None if `descriptor` is closed.

    A buffer has a lock. A process that is forked while another thread writes would wait for it for ever; Python renews
    only the locks of the streams in ``sys``.
    """
    try:
        raw = io.FileIO(descriptor, "w", closefd=False)
    except OSError:  # closed
        return None
    return io.TextIOWrapper(raw, encoding=encoding, errors="backslashreplace", write_through=True)


class NeverRaises(logging.Handler):
    """Mixin, before a handler class: a log call does not raise if the record cannot be written."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (logging's)
        with contextlib.suppress(Exception):  # sys.stderr is closed, so nothing can report it
            super().handleError(record)


class StreamHandler(NeverRaises, _ToStream):
    """The handler for gunicorn's ``-``."""


class ErrorStream(io.TextIOBase):
    """``wsgi.errors``: writes to gunicorn's error log. A failed write does not fail the request."""

    def __init__(self, stderr: TextIO | None, handlers: Callable[[], Iterable[logging.Handler]]) -> None:
        """`handlers` returns the handlers of the error log; `stderr` is used if none of them writes to a file."""
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
        except (OSError, ValueError):  # a full disk, a closed pipe, a closed stream
            pass
        return len(text)

    def close(self) -> None:
        """Do nothing: other requests write to the same stream."""

    def fileno(self) -> int:
        if self._stderr is None:
            raise io.UnsupportedOperation("fileno")
        return self._stderr.fileno()


def _write(handler: logging.FileHandler, text: str) -> None:
    handler.acquire()
    try:
        if handler.stream is None:  # logging.config closes the files of all handlers; they reopen when needed
            handler.stream = handler._open()
        handler.stream.write(text)
        handler.stream.flush()
    finally:
        handler.release()
