"""Logs go to the journal natively, where stdout and stderr go there anyway; otherwise gunicorn's logging, as it is.

Each record is an entry with fields: ``journalctl -u app STATUS=500``.
"""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import sys
from datetime import timedelta
from pathlib import Path
from select import POLLOUT, poll
from types import FrameType
from typing import Any, TextIO

from gunicorn import glogging
from gunicorn.config import Config
from gunicorn.instrument import statsd
from systemd import journal

from flask_socketact.bridge import request_context
from flask_socketact.logs import places, streams

SOCKET = "/run/systemd/journal/socket"
#: How long a record waits for a journal that takes nothing; those after it are dropped until it does. Seconds.
PATIENCE = 1.0
#: From this status on an answer is an error, and is logged also without an access log.
SERVER_ERROR = 500

#: Files that nobody looks for who wants to know where a record comes from.
_LOGGERS = (logging.__file__, glogging.__file__, statsd.__file__, __file__)
_FIELD_NAME = re.compile("[A-Z][A-Z0-9_]{0,63}")
#: As what systemd shows lines of our stdout: the name of the process, before anybody changes it.
_IDENTIFIER = Path("/proc/self/comm").read_text().strip()


class Handler(streams.Unfailing, journal.JournalHandler):
    """python-systemd's, with the current request's id; and safe for what strangers send.

    Of a record's attributes only those are sent whose name is one of a field, as in ``extra={"ORDER_ID": 7}``:
    python-systemd sends all of them, and with an access log's arguments every header of the request.
    """

    def __init__(self, level: int = logging.NOTSET, **fields: Any) -> None:
        super().__init__(level, **({"SYSLOG_IDENTIFIER": _IDENTIFIER} | fields))
        self.gate = Gate()
        self._dropped = 0

    def emit(self, record: logging.LogRecord) -> None:
        try:
            lines = encode(self._extra | fields_of(record) | {"MESSAGE": self.format(record)})
            if not self.gate.is_open(0.0 if self._dropped else PATIENCE):
                self._dropped += 1
                return
            if self._dropped:
                self._report_dropped()
            journal.sendv(*lines)
        except Exception:  # noqa: BLE001 (as all handlers of logging)
            self.handleError(record)

    def _report_dropped(self) -> None:
        text = f"{self._dropped} records were dropped: the journal took nothing"
        self._dropped = 0
        journal.sendv(*encode(self._extra | {"MESSAGE": text, "PRIORITY": journal.LOG_WARNING}))


class Gate:
    """Tells whether the journal takes an entry. libsystemd waits until it does, and python-systemd holds
    the interpreter's lock meanwhile: no thread would run, and the master would kill the worker for it."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._poll = poll()  # not gevent's, which would let other greenlets run in the middle of a log call
        try:
            self._socket.connect(SOCKET)
        except OSError:
            self.exists = False
        else:
            self.exists = True
            self._poll.register(self._socket, POLLOUT)

    def is_open(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds for room in the journal's queue."""
        return not self.exists or bool(self._poll.poll(1000 * timeout))


def fields_of(record: logging.LogRecord) -> dict[str, Any]:
    """Return the fields of `record`, without its text."""
    fields: dict[str, Any] = {"GENERATION": request_context.generation}
    if environ := request_context.environ():
        fields |= {"REQUEST_ID": request_context.request_id(), "LISTENER": environ.get(request_context.LISTENER)}
    for name, value in record.__dict__.items():
        if name.isupper() and _FIELD_NAME.fullmatch(name):
            fields[name] = value
    if "MESSAGE_ID" in fields:  # a text, or a UUID
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
    """Return where `record` was made; called below that place. logging takes gunicorn's logger for it."""
    path, line, function = record.pathname, record.lineno, record.funcName
    if path in _LOGGERS:
        frame: FrameType | None = sys._getframe()
        while frame and frame.f_code.co_filename in _LOGGERS:
            frame = frame.f_back
        if frame:
            path, line, function = frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name
    return {"CODE_FILE": path, "CODE_LINE": line, "CODE_FUNC": function}


def encode(fields: dict[str, Any]) -> list[bytes]:
    """Return `fields` as the journal takes them, without those that are None. A value may have line breaks."""
    return [
        name.encode() + b"=" + (value if isinstance(value, bytes) else str(value).encode(errors="backslashreplace"))
        for name, value in fields.items()
        if value is not None
    ]


class Logger(glogging.Logger):
    """gunicorn's, which writes to the journal where ``-`` means the journal; the application cannot silence it."""

    def __new__(cls, cfg: Config) -> Logger:
        """With ``statsd_host`` gunicorn takes another class, but not in the place of one that was asked for."""
        logger: Logger = super().__new__(StatsdLogger if cls is Logger and cfg.statsd_host else cls)
        return logger

    def __init__(self, cfg: Config) -> None:
        self._stdout, self._stderr = streams.duplicate(sys.stdout), streams.duplicate(sys.stderr)
        self._as_set_up: list[places.Setup] = []
        super().__init__(cfg)
        #: What an application is to have as ``wsgi.errors``: gunicorn's own raises when sys.stderr is closed.
        self.wsgi_errors = streams.Errors(self._stderr, lambda: self._as_set_up[0].handlers)

    def setup(self, cfg: Config) -> None:
        """Take the settings: at the start, and again at every reload."""
        self._journals_access = False
        if cfg.capture_output:
            streams.reopen_closed()
        elif self.logfile is not None:
            self._end_capture(self.logfile)
        super().setup(cfg)
        if not self.access_log_enabled and _is_ours(self.error_log) and self.error_log.isEnabledFor(logging.ERROR):
            self._set_handler(self.access_log, "-", logging.Formatter(self.access_fmt))
            self.access_log.setLevel(logging.ERROR)
        self._journals_access = _is_ours(self.access_log)
        self._as_set_up = [places.Setup.of(self.error_log), places.Setup.of(self.access_log)]

    def restore(self) -> None:
        """Undo what the application has done to gunicorn's loggers, as ``logging.config.dictConfig`` does by default.
        Quick when there is nothing to do."""
        for setup in self._as_set_up:
            setup.restore()

    def exception(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        """Log an error with its traceback; also that of an application that has configured logging, and then
        failed to load."""
        self.restore()
        super().exception(msg, *args, **kwargs)

    def _set_handler(self, log: logging.Logger, output: str | None, fmt: logging.Formatter, stream: Any = None) -> None:
        self._follow_capture()
        ours = self._stdout if stream is sys.stdout and stream is not None else self._stderr
        if output != "-" or ours is None:
            super()._set_handler(log, output, fmt, stream)
            return
        super()._set_handler(log, None, fmt)  # away with the one before
        handler = _handler_for(ours, fmt)
        handler._gunicorn = True  # type: ignore[attr-defined]
        log.addHandler(handler)

    def reopen_files(self) -> None:
        """Open log files again, and with ``capture_output`` what takes stdout and stderr."""
        if self.cfg.capture_output:
            streams.reopen_closed()
        super().reopen_files()
        self._follow_capture()

    def _end_capture(self, file: TextIO) -> None:
        """Write where stdout and stderr go, and no longer to where settings that have failed had captured them."""
        file.close()
        self.logfile = None
        for ours, theirs in ((self._stdout, sys.stdout), (self._stderr, sys.stderr)):
            with contextlib.suppress(AttributeError, OSError, ValueError):  # none, or closed
                streams.redirect((ours,), theirs)

    def _follow_capture(self) -> None:
        """Write where stdout and stderr go since gunicorn has captured them (``capture_output``)."""
        if self.logfile is not None:
            streams.redirect((self._stdout, self._stderr), self.logfile)

    @property
    def access_log_enabled(self) -> bool:
        """Whether gunicorn's own access log is on; ours, in the journal, takes its place."""
        return not self._journals_access and bool(super().access_log_enabled)

    def access(self, resp: Any, req: Any, environ: dict[str, Any], request_time: timedelta) -> None:
        """Log an answer. Its text is that of ``access_log_format``."""
        super().access(resp, req, environ, request_time)
        if not self._journals_access:
            return
        status = status_of(resp)
        level = logging.ERROR if status >= SERVER_ERROR else logging.INFO
        if not self.access_log.isEnabledFor(level):
            return
        environ = request_context.environ() or environ  # for an error page gunicorn makes another, with less in it
        try:
            atoms = self.atoms_wrapper_class(self.atoms(resp, req, environ, request_time))
            fields = {"STATUS": status or None, "REQUEST_ID": request_context.id_of(environ)}
            fields |= request_fields(environ) | {"DURATION_USEC": request_time // timedelta(microseconds=1)}
            self.access_log.log(level, self.cfg.access_log_format, atoms, extra=fields)
        except Exception:  # noqa: BLE001 (an answer is not lost for its log)
            self.exception("The access log has failed")


class StatsdLogger(Logger, statsd.Statsd):
    """The same, with gunicorn's metrics."""


def restore(log: Any) -> None:
    """Undo what the application has done to gunicorn's loggers, if `log` is one of ours."""
    if isinstance(log, Logger):
        log.restore()


def errors_of(log: Any) -> Any:
    """Return what requests get as ``wsgi.errors``, which cannot fail; None if `log` is none of ours."""
    return log.wsgi_errors if isinstance(log, Logger) else None


def _handler_for(stream: TextIO, fmt: logging.Formatter) -> logging.Handler:
    """Return a handler that writes to the journal if `stream` does, and the journal is there; otherwise to `stream`."""
    if places.is_journal(stream):
        handler = Handler()
        if handler.gate.exists:
            handler.setFormatter(logging.Formatter())  # time, level and process are fields
            return handler
    plain = streams.StreamHandler(stream)
    plain.setFormatter(fmt)
    return plain


def status_of(response: Any) -> int:
    """Return the status of gunicorn's `response`; 0 when it has none."""
    first = str(response.status).partition(" ")[0]
    return int(first) if first.isdecimal() else 0


def request_fields(environ: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of an access log that `environ` knows. Bytes of a path that are no UTF-8 are escaped."""
    path = environ.get("PATH_INFO")
    if path is None:  # a request that was refused
        path = (environ.get("RAW_URI") or "").partition("?")[0]
    return {
        "METHOD": environ.get("REQUEST_METHOD"),
        "PATH": path.encode("latin-1", "backslashreplace").decode(errors="backslashreplace"),
        "REMOTE_ADDR": environ.get("REMOTE_ADDR"),
        "LISTENER": environ.get(request_context.LISTENER),
    }


class _RootHandler(Handler):
    """Sends what no handler of the application, at the record's logger or above, sends to the journal itself."""

    def emit(self, record: logging.LogRecord) -> None:
        if not any(self._doubles(handler, record) for handler in places.handlers_for(record)):
            super().emit(record)

    def _doubles(self, handler: logging.Handler, record: logging.LogRecord) -> bool:
        if handler is self or record.levelno < handler.level or places.place_of(handler) != places.JOURNAL:
            return False
        return bool(handler.filter(record))


def take_root() -> None:
    """Send what the application logs where gunicorn's errors go, with fields, unless it has configured logging.

    After it was loaded, not before: ``logging.basicConfig`` does nothing, level included, when there is a handler.
    """
    root = logging.getLogger()
    if root.handlers or not _is_ours(logging.getLogger("gunicorn.error")):
        return
    root.addHandler(_RootHandler())
    if flask := sys.modules.get("flask.logging"):  # what Flask adds when nobody else has, and now somebody has
        for logger in glogging.loggers():
            if _propagates(logger):
                logger.removeHandler(flask.default_handler)


def _propagates(logger: logging.Logger) -> bool:
    """Whether the root gets the records of `logger`."""
    while logger.parent:
        if not logger.propagate:
            return False
        logger = logger.parent
    return True


def _is_ours(logger: logging.Logger) -> bool:
    return any(isinstance(handler, Handler) for handler in logger.handlers)
