"""gunicorn's logger. It writes to the journal where stdout and stderr go there, and otherwise as gunicorn's does."""

from __future__ import annotations

import contextlib
import logging
import sys
from datetime import timedelta
from typing import Any, TextIO

from gunicorn import glogging
from gunicorn.config import Config
from gunicorn.instrument import statsd

from flask_socketact import env
from flask_socketact.bridge import keys, request_context
from flask_socketact.logs import destinations, streams
from flask_socketact.logs.handler import Handler, writes_to_journal

#: Responses with this status or above are errors. They are logged even without an access log.
SERVER_ERROR = 500


class Logger(glogging.Logger):
    """gunicorn's logger, but ``-`` can be the journal, and an application cannot disable it."""

    def __new__(cls, cfg: Config) -> Logger:
        """Return a :class:`StatsdLogger` if ``statsd_host`` is set: gunicorn does so only for its default class."""
        has_metrics = cfg.statsd_host and not env.is_trial()
        logger: Logger = super().__new__(StatsdLogger if cls is Logger and has_metrics else cls)
        return logger

    def __init__(self, cfg: Config) -> None:
        self._stdout, self._stderr = streams.duplicate(sys.stdout), streams.duplicate(sys.stderr)
        self._as_set_up: list[destinations.LoggerSetup] = []
        super().__init__(cfg)
        #: The application's ``wsgi.errors``: gunicorn's own raises when sys.stderr is closed.
        self.wsgi_errors = streams.ErrorStream(self._stderr, lambda: self._as_set_up[0].handlers)

    def setup(self, cfg: Config) -> None:
        """Apply the settings: at the start, and at every reload."""
        self._journals_access = False
        if cfg.capture_output:
            streams.reopen_closed()
        elif self.logfile is not None:
            self._end_capture(self.logfile)
        super().setup(cfg)
        errors_in_journal = writes_to_journal(self.error_log) and self.error_log.isEnabledFor(logging.ERROR)
        if errors_in_journal and not self.access_log_enabled:
            self._set_handler(self.access_log, "-", logging.Formatter(self.access_fmt))
            self.access_log.setLevel(logging.ERROR)
        self._journals_access = writes_to_journal(self.access_log)
        self._as_set_up = [destinations.LoggerSetup.of(self.error_log), destinations.LoggerSetup.of(self.access_log)]

    def restore(self) -> None:
        """Undo the application's changes to gunicorn's loggers; ``logging.config.dictConfig`` disables them by default.

        Fast if nothing has changed.
        """
        for setup in self._as_set_up:
            setup.restore()

    def exception(self, msg: Any, *args: Any, **kwargs: Any) -> None:
        """Log an error with its traceback, even for an application that configured logging and then failed to load."""
        self.restore()
        super().exception(msg, *args, **kwargs)

    def _set_handler(self, log: logging.Logger, output: str | None, fmt: logging.Formatter, stream: Any = None) -> None:
        self._follow_capture()
        ours = self._stdout if stream is sys.stdout and stream is not None else self._stderr
        if output != "-" or ours is None:
            super()._set_handler(log, output, fmt, stream)
            return
        super()._set_handler(log, None, fmt)  # removes the old handler
        handler = _handler_for(ours, fmt)
        handler._gunicorn = True  # type: ignore[attr-defined]
        log.addHandler(handler)

    def reopen_files(self) -> None:
        """Reopen log files, and with ``capture_output`` the file that captures stdout and stderr."""
        if self.cfg.capture_output:
            streams.reopen_closed()
        super().reopen_files()
        self._follow_capture()

    def _end_capture(self, file: TextIO) -> None:
        """Write to stdout and stderr again, after failed settings had captured them in `file`."""
        file.close()
        self.logfile = None
        for ours, theirs in ((self._stdout, sys.stdout), (self._stderr, sys.stderr)):
            with contextlib.suppress(AttributeError, OSError, ValueError):  # none, or closed
                streams.redirect((ours,), theirs)

    def _follow_capture(self) -> None:
        """Write to the file in which gunicorn captures stdout and stderr (``capture_output``)."""
        if self.logfile is not None:
            streams.redirect((self._stdout, self._stderr), self.logfile)

    @property
    def access_log_enabled(self) -> bool:
        """Whether gunicorn's own access log is on. It is off while the access log goes to the journal."""
        return not self._journals_access and bool(super().access_log_enabled)

    def access(self, resp: Any, req: Any, environ: dict[str, Any], request_time: timedelta) -> None:
        """Log a response, as ``access_log_format`` says."""
        super().access(resp, req, environ, request_time)
        if not self._journals_access:
            return
        status = status_of(resp)
        level = logging.ERROR if status >= SERVER_ERROR else logging.INFO
        if not self.access_log.isEnabledFor(level):
            return
        environ = request_context.environ() or environ  # for an error page gunicorn makes another, with fewer keys
        try:
            atoms = self.atoms_wrapper_class(self.atoms(resp, req, environ, request_time))
            fields = {"STATUS": status or None, "REQUEST_ID": request_context.id_of(environ)}
            fields |= request_fields(environ) | {"DURATION_USEC": request_time // timedelta(microseconds=1)}
            self.access_log.log(level, self.cfg.access_log_format, atoms, extra=fields)
        except Exception:  # noqa: BLE001 (a log line must not fail a response)
            self.exception("Writing to the access log failed")


class StatsdLogger(Logger, statsd.Statsd):
    """Our logger, with gunicorn's metrics for statsd."""


def restore(log: Any) -> None:
    """Undo the application's changes to gunicorn's loggers, if `log` is a logger of this package."""
    if isinstance(log, Logger):
        log.restore()


def errors_of(log: Any) -> Any:
    """Return the stream for ``wsgi.errors``, which never raises; None if `log` is not a logger of this package."""
    return log.wsgi_errors if isinstance(log, Logger) else None


def _handler_for(stream: TextIO, fmt: logging.Formatter) -> logging.Handler:
    """Return a handler for the journal if `stream` goes there and journald is reachable; otherwise one for `stream`."""
    if destinations.is_journal(stream):
        handler = Handler()
        if handler.queue.exists:
            handler.setFormatter(logging.Formatter())  # time, level and process are fields
            return handler
    plain = streams.StreamHandler(stream)
    plain.setFormatter(fmt)
    return plain


def status_of(response: Any) -> int:
    """Return the status of gunicorn's `response`; 0 if it has none."""
    first = str(response.status).partition(" ")[0]
    return int(first) if first.isdecimal() else 0


def request_fields(environ: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of the access log that come from `environ`. Non-UTF-8 bytes of the path are escaped."""
    path = environ.get("PATH_INFO")
    if path is None:  # a rejected request
        path = (environ.get("RAW_URI") or "").partition("?")[0]
    return {
        "METHOD": environ.get("REQUEST_METHOD"),
        "PATH": path.encode("latin-1", "backslashreplace").decode(errors="backslashreplace"),
        "REMOTE_ADDR": environ.get("REMOTE_ADDR"),
        "LISTENER": environ.get(keys.LISTENER),
    }
