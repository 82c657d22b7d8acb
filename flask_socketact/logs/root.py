"""The root logger: the application's logs go to the journal, unless it has configured logging itself."""

from __future__ import annotations

import logging
import sys

from gunicorn import glogging

from flask_socketact.logs.destinations import JOURNAL, destination_of, handlers_for
from flask_socketact.logs.handler import Handler, writes_to_journal


class RootHandler(Handler):
    """Skips records that a handler of the application, at the record's logger or above, sends to the journal."""

    def emit(self, record: logging.LogRecord) -> None:
        if not any(self._sends_too(handler, record) for handler in handlers_for(record)):
            super().emit(record)

    def _sends_too(self, handler: logging.Handler, record: logging.LogRecord) -> bool:
        if handler is self or record.levelno < handler.level or destination_of(handler) != JOURNAL:
            return False
        return bool(handler.filter(record))


def install_root_handler() -> None:
    """Send the application's logs to the journal if gunicorn's errors go there and the root logger has no handler.

    Call it after the application was loaded: ``logging.basicConfig`` does nothing if there is a handler.
    """
    root = logging.getLogger()
    if root.handlers or not writes_to_journal(logging.getLogger("gunicorn.error")):
        return
    root.addHandler(RootHandler())
    if flask := sys.modules.get("flask.logging"):  # Flask adds it only where no other handler is
        for logger in glogging.loggers():
            if _propagates(logger):
                logger.removeHandler(flask.default_handler)


def _propagates(logger: logging.Logger) -> bool:
    """Return whether records of `logger` reach the root logger."""
    while logger.parent:
        if not logger.propagate:
            return False
        logger = logger.parent
    return True
