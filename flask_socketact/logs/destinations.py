"""Destinations of handlers, so that a record is not written twice to one; and the state of gunicorn's loggers."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from systemd.journal import JournalHandler

#: systemd.exec(5): device and inode of the stream that systemd connected to the journal.
JOURNAL_STREAM = "JOURNAL_STREAM"
#: Destination of all handlers that write to the journal, natively or through a stream.
JOURNAL = "journal"


def is_journal(stream: Any) -> bool:
    """Return whether `stream` goes to the journal."""
    try:
        status = os.fstat(stream.fileno())
    except (AttributeError, OSError, ValueError):  # not a file, or closed
        return False
    return os.environ.get(JOURNAL_STREAM) == f"{status.st_dev}:{status.st_ino}"


def destination_of(handler: logging.Handler) -> object:
    """Return an object that is equal for handlers with the same destination; None if it is unknown."""
    if isinstance(handler, JournalHandler):
        return JOURNAL
    if not isinstance(handler, logging.StreamHandler):
        return None
    return JOURNAL if is_journal(handler.stream) else _file_of(handler.stream)


def _file_of(stream: Any) -> object:
    """Return an object that is equal for streams to the same file; the stream itself if it has no file."""
    try:
        status = os.fstat(stream.fileno())
    except (AttributeError, OSError, ValueError):
        return stream
    return (status.st_dev, status.st_ino)


def handlers_for(record: logging.LogRecord) -> Iterator[logging.Handler]:
    """Yield the handlers that `record` reaches, up to those of the root logger."""
    root = logging.getLogger()
    logger = root.manager.loggerDict.get(record.name)
    if not isinstance(logger, logging.Logger):  # a record of the root logger, or one made without a logger
        logger = root
    while logger is not None:
        yield from logger.handlers
        logger = logger.parent if logger.propagate else None


@dataclass(frozen=True)
class LoggerSetup:
    """The state of a logger after gunicorn's settings were applied."""

    logger: logging.Logger
    level: int
    propagate: bool
    disabled: bool
    handlers: tuple[logging.Handler, ...]

    @classmethod
    def of(cls, logger: logging.Logger) -> LoggerSetup:
        return cls(logger, logger.level, logger.propagate, logger.disabled, tuple(logger.handlers))

    def restore(self) -> None:
        """Undo the application's changes. Handlers that it added stay if they have another destination."""
        logger = self.logger
        logger.disabled, logger.propagate = self.disabled, self.propagate
        if logger.level != self.level:
            logger.setLevel(self.level)
        others = [handler for handler in logger.handlers if handler not in self.handlers and self._is_kept(handler)]
        handlers = [*self.handlers, *others]
        if logger.handlers != handlers:
            logger.handlers[:] = handlers  # in place: the application's logger may share the list

    def _is_kept(self, handler: logging.Handler) -> bool:
        destination = destination_of(handler)
        is_closed = getattr(getattr(handler, "stream", None), "closed", False)
        return not is_closed and (destination is None or destination not in map(destination_of, self.handlers))
