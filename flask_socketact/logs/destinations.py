"""Where handlers write, so that a record is not written twice to the same place; and gunicorn's loggers as set up."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from systemd.journal import JournalHandler

#: systemd.exec(5): device and inode of the stream that systemd has connected to the journal.
JOURNAL_STREAM = "JOURNAL_STREAM"
#: The place of all handlers that write to the journal, by whatever way.
JOURNAL = "journal"


def is_journal(stream: Any) -> bool:
    """Whether `stream` writes to the journal."""
    try:
        status = os.fstat(stream.fileno())
    except (AttributeError, OSError, ValueError):  # no file, or none any more
        return False
    return os.environ.get(JOURNAL_STREAM) == f"{status.st_dev}:{status.st_ino}"


def destination_of(handler: logging.Handler) -> object:
    """Return what handlers that write to the same place have in common; None: unknown."""
    if isinstance(handler, JournalHandler):
        return JOURNAL
    if not isinstance(handler, logging.StreamHandler):
        return None
    return JOURNAL if is_journal(handler.stream) else _file_of(handler.stream)


def _file_of(stream: Any) -> object:
    """Return what two streams to the same file have in common; for one without a file, the stream."""
    try:
        status = os.fstat(stream.fileno())
    except (AttributeError, OSError, ValueError):
        return stream
    return (status.st_dev, status.st_ino)


def handlers_for(record: logging.LogRecord) -> Iterator[logging.Handler]:
    """Yield the handlers that `record` has passed, up to the root's."""
    root = logging.getLogger()
    logger = root.manager.loggerDict.get(record.name)
    if not isinstance(logger, logging.Logger):  # a record of the root, or one that came some other way
        logger = root
    while logger is not None:
        yield from logger.handlers
        logger = logger.parent if logger.propagate else None


@dataclass(frozen=True)
class LoggerSetup:
    """A logger as gunicorn's settings have it."""

    logger: logging.Logger
    level: int
    propagate: bool
    disabled: bool
    handlers: tuple[logging.Handler, ...]

    @classmethod
    def of(cls, logger: logging.Logger) -> LoggerSetup:
        return cls(logger, logger.level, logger.propagate, logger.disabled, tuple(logger.handlers))

    def restore(self) -> None:
        """Undo what the application has changed. Handlers that it has added stay, if they write elsewhere."""
        logger = self.logger
        logger.disabled, logger.propagate = self.disabled, self.propagate
        if logger.level != self.level:
            logger.setLevel(self.level)
        others = [handler for handler in logger.handlers if handler not in self.handlers and self._is_kept(handler)]
        handlers = [*self.handlers, *others]
        if logger.handlers != handlers:
            logger.handlers[:] = handlers  # the same list: the application's logger may have it, too

    def _is_kept(self, handler: logging.Handler) -> bool:
        destination = destination_of(handler)
        is_closed = getattr(getattr(handler, "stream", None), "closed", False)
        return not is_closed and (destination is None or destination not in map(destination_of, self.handlers))
