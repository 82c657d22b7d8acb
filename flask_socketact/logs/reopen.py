"""Reopen log files after they were rotated."""

from __future__ import annotations

import logging

from gunicorn.glogging import Logger, loggers


def reopen(log: Logger) -> None:
    """Reopen the files of all loggers, if every file can be opened."""
    if can_reopen(log):
        log.reopen_files()


def can_reopen(log: Logger) -> bool:
    """Return whether every log file can be opened; log the first that cannot.

    gunicorn closes the old file first. If it then cannot open the new one (another owner, no descriptor left), every
    log call raises, in the middle of requests and in the master's loop.
    """
    for path in _paths():
        try:
            open(path, "ab").close()
        except OSError as error:
            log.error("Log files are not reopened: %s: %s", path, error.strerror)
            return False
    return True


def _paths() -> set[str]:
    handlers = [handler for logger in loggers() for handler in logger.handlers]
    return {handler.baseFilename for handler in handlers if isinstance(handler, logging.FileHandler) and handler.stream}
