"""Log files, opened anew after they have been rotated."""

from __future__ import annotations

import logging

from gunicorn.glogging import Logger, loggers


def reopen(log: Logger) -> None:
    """Let `log` open its files anew, and those of the application's loggers, if it can."""
    if can_reopen(log):
        log.reopen_files()


def can_reopen(log: Logger) -> bool:
    """Whether every file can be opened; if not, say so.

    gunicorn closes the old one first: without a new one (another owner, no descriptor left) it would then raise at
    every line, in the middle of requests and in the master's loop.
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
