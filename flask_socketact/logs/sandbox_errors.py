"""A line in the journal for what the sandbox of the unit has refused, with the directive that allows it.

It is found where the application, Flask or gunicorn logs a warning or an error: in the exception of the record, in its
arguments, or in the exception that is being handled. That costs a request nothing until something is logged, unlike an
audit hook, which Python calls each time that a file is opened. An error that the application does not log is not seen.
"""

from __future__ import annotations

import hashlib
import logging
import mmap
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from flask_socketact.bridge import request_context
from flask_socketact.logs import logger
from flask_socketact.logs.refused_paths import innermost, refusals
from flask_socketact.systemd import cgroup
from flask_socketact.systemd.sandbox import Refusal
from flask_socketact.text import cut, printable

#: Most lines of a process, and most different errors that it examines: clients may choose the names of files.
_MOST_LINES = 20
_MOST_ERRORS = 1000
_MAX_TEXT = 500

_BYTES = 8
_SLOTS = 512
#: What has been told, by any worker of this master: it maps the memory before it forks.
_told = mmap.mmap(-1, _SLOTS * _BYTES)
_is_watching = False


def watch(log: Any) -> None:
    """Tell from now on what the sandbox of this process's unit refuses, with gunicorn's logger `log`.

    Further calls do nothing, nor does one outside a service.
    """
    global _is_watching  # noqa: PLW0603 (there is one record factory)
    group = cgroup.of(os.getpid()) or ""
    unit = os.path.basename(group)
    if _is_watching or not unit.endswith(".service"):
        return
    _is_watching = True
    make = logging.getLogRecordFactory()
    explanations = Explanations(unit, log, user_manager="/user@" in group)

    def make_and_look(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        if record.levelno >= logging.WARNING:
            with suppress(Exception):  # a log call does not fail because a line about it cannot be made
                for error in _errors_of(record):
                    explanations.explain(error)
        return record

    logging.setLogRecordFactory(make_and_look)


def _errors_of(record: logging.LogRecord) -> Iterator[BaseException]:
    """Yield the exceptions that a record may be about."""
    if isinstance(record.exc_info, tuple) and record.exc_info[1] is not None:
        yield record.exc_info[1]
    elif handled := sys.exc_info()[1]:
        yield handled
    if isinstance(record.args, tuple):
        yield from (argument for argument in record.args if isinstance(argument, BaseException))


class Explanations:
    """What this process tells of a unit's sandbox: each folder and directive once in a generation of workers."""

    def __init__(self, unit: str, log: Any, *, user_manager: bool) -> None:
        """Take the name of the unit, and gunicorn's logger."""
        self._unit = unit
        self._log = log
        self._edit = f"systemctl{' --user' if user_manager else ''} edit {shlex.quote(unit)}"
        self._examined: set[int] = set()
        self._lines = 0

    def explain(self, error: BaseException) -> None:
        """Log what the sandbox has refused, if that is the cause of `error` and is not known yet."""
        if len(self._examined) >= _MOST_ERRORS or self._lines > _MOST_LINES:
            return
        kind = _kind_of(error)
        if kind in self._examined:
            return
        self._examined.add(kind)
        for refusal in refusals(error):
            if not _is_told(refusal.remedy):
                self._tell(refusal)

    def _tell(self, refusal: Refusal) -> None:
        self._lines += 1
        logger.restore(self._log)  # the application may have disabled it while it was imported
        if self._lines > _MOST_LINES:
            self._log.warning("The sandbox of %s refuses more; this worker tells no more of it", self._unit)
            return
        what = cut(printable(refusal.what), _MAX_TEXT)
        self._log.warning("The sandbox of %s %s: %s with: %s", self._unit, what, refusal.remedy, self._edit)


def _kind_of(error: BaseException) -> int:
    """Return what is equal for errors that have the same explanation, such as those of two files in one folder."""
    path = getattr(error, "filename", None)
    number = getattr(error, "errno", None)
    if isinstance(path, str):
        return hash((type(error), number, os.path.dirname(path)))
    frame = innermost(error)
    return hash((type(error), number, frame and (frame.f_code.co_filename, frame.f_lineno)))


def _is_told(remedy: str) -> bool:
    """Return whether a worker of this generation has told this remedy; from now on, one has."""
    key = hashlib.blake2b(f"{request_context.generation} {remedy}".encode(), digest_size=_BYTES).digest()
    begin = int.from_bytes(key, "little") % _SLOTS * _BYTES
    known = _told[begin : begin + _BYTES] == key
    _told[begin : begin + _BYTES] = key
    return known
