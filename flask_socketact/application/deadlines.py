"""When an answer comes too late: how long a request may take, from when it was sent on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

from flask import Flask, request
from werkzeug.exceptions import ServiceUnavailable

from flask_socketact.application.queue_time import is_at_once, waited
from flask_socketact.bridge import keys

#: Environ of a request that is late for the shortest deadline, until it is known what its own is.
_late: ContextVar[dict[str, Any] | None] = ContextVar("late", default=None)
#: What a client that comes too late is told to wait, in seconds.
RETRY_AFTER = 1


class Deadlines:
    """The deadlines of an application."""

    def __init__(self, default: float | None, count_late: Callable[[], None]) -> None:
        """Take the seconds of endpoints that have none of their own, None: no deadline; `count_late` hears of each
        request that came too late."""
        self._default = default
        self._count_late = count_late
        self._by_endpoint: dict[str, float | None] = {}
        self.shortest: float | None = None  #: of all of them
        self._is_installed = False

    def set(self, by_endpoint: Mapping[str, float | None]) -> None:
        """Take the seconds of endpoints that have their own, None: no deadline."""
        self._by_endpoint = dict(by_endpoint)
        limits = [seconds for seconds in (self._default, *by_endpoint.values()) if seconds is not None]
        self.shortest = min(limits, default=None)

    def install(self, app: Flask) -> None:
        """Refuse what comes too late, from now on, before anything else that Flask calls for a request."""
        if self.shortest is not None and not self._is_installed:
            self._is_installed = True
            preprocess = app.preprocess_request

            def preprocess_request() -> Any:
                late = _late.get()
                if late is not None:
                    self._refuse(late)
                return preprocess()

            app.preprocess_request = preprocess_request  # type: ignore[method-assign]

    def begin(self, environ: dict[str, Any]) -> None:
        """Take the time of a request that begins."""
        now = time.monotonic()
        wait = 0.0 if is_at_once(environ, now) else waited(environ)
        environ[keys.SENT] = now - wait
        if wait >= self.shortest:  # type: ignore[operator]
            _late.set(environ)

    def _refuse(self, environ: dict[str, Any]) -> None:
        _late.set(None)
        wait = waited(environ)
        seconds = self._limit()
        if request.environ is environ and seconds is not None and wait >= seconds:
            self._count_late()
            raise _too_late(f"This request had waited for {wait:.1f} s before anybody could answer it.")

    def remaining(self) -> float | None:
        """Return the seconds until the deadline of the current request; None when it has none.

        :raises ServiceUnavailable: it is over.
        """
        seconds = self._limit()
        if seconds is None:
            return None
        now = time.monotonic()
        left = float(request.environ.setdefault(keys.SENT, now)) + seconds - now
        if left <= 0:
            raise _too_late("The time for this answer is over.")
        return left

    def _limit(self) -> float | None:
        """Return the seconds that the current request may take."""
        return self._by_endpoint.get(request.endpoint or "", self._default)


def _too_late(text: str) -> ServiceUnavailable:
    """Return the answer to a request that comes too late (RFC 9110, section 15.6.4)."""
    return ServiceUnavailable(text, retry_after=RETRY_AFTER)
