"""gunicorn's logger, which writes to the journal where stdout and stderr go there; otherwise as gunicorn's does."""

from __future__ import annotations

import contextlib
import logging
import sys
from datetime import timedelta
from typing import Any, TextIO

from gunicorn import glogging
from gunicorn.config import Config
from gunicorn.instrument import statsd

from flask_socketact.bridge import keys, request_context
from flask_socketact.logs import destinations, streams
from flask_socketact.logs.handler import Handler, writes_to_journal

#: From this status on an answer is an error, and is logged also without an access log.
SERVER_ERROR = 500


class Logger(glogging.Logger):
    """gunicorn's, which writes to the journal where ``-`` means the journal; the application cannot silence it."""

    def __new__(cls, cfg: Config) -> Logger:
        """With ``statsd_host`` gunicorn takes another class, but not in the place of one that was asked for."""
        logger: Logger = super().__new__(StatsdLogger if cls is Logger and cfg.statsd_host else cls)
        return logger

    def __init__(self, cfg: Config) -> None:
        self._stdout, self._stderr = streams.duplicate(sys.stdout), streams.duplicate(sys.stderr)
        self._as_set_up: list[destinations.LoggerSetup] = []
        super().__init__(cfg)
        #: What an application is to have as ``wsgi.errors``: gunicorn's own raises when sys.stderr is closed.
        self.wsgi_errors = streams.ErrorStream(self._stderr, lambda: self._as_set_up[0].handlers)

    def setup(self, cfg: Config) -> None:
        """Take the settings: at the start, and again at every reload."""
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
    if destinations.is_journal(stream):
        handler = Handler()
        if handler.queue.exists:
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
        "LISTENER": environ.get(keys.LISTENER),
    }
