"""A logging handler that writes native journal entries with fields: ``journalctl -u app STATUS=500``."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
from pathlib import Path
from select import POLLOUT, poll
from types import FrameType
from typing import Any

from gunicorn import glogging
from gunicorn.instrument import statsd
from systemd import journal

from flask_socketact.bridge import keys, request_context
from flask_socketact.logs import streams

SOCKET = "/run/systemd/journal/socket"
#: How long a record waits while the journal's queue is full; later records are dropped until it has room. Seconds.
JOURNAL_TIMEOUT = 1.0

#: Files of logging itself, which are not where a record comes from.
_OURS = (__file__, os.path.join(os.path.dirname(__file__), "logger.py"))
_LOGGERS = (logging.__file__, glogging.__file__, statsd.__file__, *_OURS)
_FIELD_NAME = re.compile("[A-Z][A-Z0-9_]{0,63}")
#: The identifier that systemd gives to lines of our stdout: the name of the process, before gunicorn changes it.
_IDENTIFIER = Path("/proc/self/comm").read_text().strip()


class Handler(streams.NeverRaises, journal.JournalHandler):
    """python-systemd's handler, with the current request's ID, and safe for untrusted text.

    Only attributes of a record that are named like fields are sent, as in ``extra={"ORDER_ID": 7}``. python-systemd
    sends all attributes, and so, with an access log's arguments, all headers of the request.
    """

    def __init__(self, level: int = logging.NOTSET, **fields: Any) -> None:
        super().__init__(level, **({"SYSLOG_IDENTIFIER": _IDENTIFIER} | fields))
        self.queue = JournalQueue()
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            lines = encode(self._extra | fields_of(record) | {"MESSAGE": self.format(record)})
            if not self.queue.has_room(0.0 if self._dropped else JOURNAL_TIMEOUT):
                self._dropped += 1
                return
            if self._dropped:
                self._report_dropped()
            journal.sendv(*lines)
        except Exception:  # noqa: BLE001 (as all handlers of logging)
            self.handleError(record)

    def _report_dropped(self) -> None:
        text = f"{self._dropped} log records were dropped: the journal's queue was full"
        self._dropped = 0
        journal.sendv(*encode(self._extra | {"MESSAGE": text, "PRIORITY": journal.LOG_WARNING}))


class JournalQueue:
    """The journal's receive queue.

    When it is full libsystemd blocks, and python-systemd holds the interpreter's lock meanwhile: no thread would run,
    and the master would kill the worker. So look here first.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._poll = poll()  # not gevent's, which would switch greenlets in the middle of a log call
        try:
            self._socket.connect(SOCKET)
        except OSError:
            self.exists = False
        else:
            self.exists = True
            self._poll.register(self._socket, POLLOUT)

    def has_room(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds for room in the queue; return whether there is room."""
        return not self.exists or bool(self._poll.poll(1000 * timeout))


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the journal fields of `record`, except MESSAGE."""
    fields: dict[str, Any] = {"GENERATION": request_context.generation}
    if environ := request_context.environ():
        fields |= {"REQUEST_ID": request_context.request_id(), "LISTENER": environ.get(keys.LISTENER)}
    for name, value in record.__dict__.items():
        if name.isupper() and _FIELD_NAME.fullmatch(name):
            fields[name] = value
    if "MESSAGE_ID" in fields:  # a str, or a UUID
        fields["MESSAGE_ID"] = getattr(fields["MESSAGE_ID"], "hex", fields["MESSAGE_ID"])
    return (
        fields
        | {
            "PRIORITY": journal.JournalHandler.map_priority(record.levelno),
            "LOGGER": record.name,
            "THREAD_NAME": record.threadName,
        }
        | _code_of(record)
    )


def _code_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the file, line and function that logged `record`; called below it in the stack.

    For a call through gunicorn's logger, logging names gunicorn's logger instead.
    """
    path, line, function = record.pathname, record.lineno, record.funcName
    if path in _LOGGERS:
        frame: FrameType | None = sys._getframe()
        while frame and frame.f_code.co_filename in _LOGGERS:
            frame = frame.f_back
        if frame:
            path, line, function = frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name
    return {"CODE_FILE": path, "CODE_LINE": line, "CODE_FUNC": function}


def encode(fields: dict[str, Any]) -> list[bytes]:
    """Return `fields` in the format of sd_journal_sendv(3). None is left out. Values may have line breaks."""
    return [
        name.encode() + b"=" + (value if isinstance(value, bytes) else str(value).encode(errors="backslashreplace"))
        for name, value in fields.items()
        if value is not None
    ]


def writes_to_journal(logger: logging.Logger) -> bool:
    """Return whether one of our handlers of `logger` writes to the journal."""
    return any(isinstance(handler, Handler) for handler in logger.handlers)
