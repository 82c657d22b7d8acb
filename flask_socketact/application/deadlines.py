"""Deadlines: how long a request may take, counted from when the proxy sent it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

from flask import Flask, request
from werkzeug.exceptions import ServiceUnavailable

from flask_socketact.application.queue_time import is_at_once, waited
from flask_socketact.bridge import keys

#: Environ of a request that is too late for the shortest deadline; its own is known only after routing.
_late: ContextVar[dict[str, Any] | None] = ContextVar("late", default=None)
#: Retry-After of a response to a request that is too late, in seconds.
RETRY_AFTER = 1


class Deadlines:
    """The deadlines of one application."""

    def __init__(self, default: float | None, count_late: Callable[[], None]) -> None:
        """Set the default.

        :param default: Seconds, for endpoints without a deadline of their own; None: no deadline.
        :param count_late: Called for each request that is rejected.
        """
        self._default = default
        self._count_late = count_late
        self._by_endpoint: dict[str, float | None] = {}
        self.shortest: float | None = None  #: seconds, of all endpoints
        self._is_installed = False

    def set(self, by_endpoint: Mapping[str, float | None]) -> None:
        """Set the deadlines of single endpoints, in seconds; None: no deadline."""
        self._by_endpoint = dict(by_endpoint)
        limits = [seconds for seconds in (self._default, *by_endpoint.values()) if seconds is not None]
        self.shortest = min(limits, default=None)

    def install(self, app: Flask) -> None:
        """Reject requests that are too late, before Flask calls any function of the application for them."""
        if self.shortest is not None and not self._is_installed:
            self._is_installed = True
            preprocess = app.preprocess_request

            def preprocess_request() -> Any:
                late = _late.get()
                if late is not None:
                    self._reject(late)
                return preprocess()

            app.preprocess_request = preprocess_request  # type: ignore[method-assign]

    def begin(self, environ: dict[str, Any]) -> None:
        """Note when a request was sent."""
        now = time.monotonic()
        wait = 0.0 if is_at_once(environ, now) else waited(environ)
        environ[keys.SENT] = now - wait
        if wait >= self.shortest:  # type: ignore[operator]
            _late.set(environ)

    def _reject(self, environ: dict[str, Any]) -> None:
        _late.set(None)
        wait = waited(environ)
        seconds = self._limit()
        if request.environ is environ and seconds is not None and wait >= seconds:
            self._count_late()
            raise _too_late(
                f"This request waited for {wait:.1f} s before the server could read it, longer than its deadline."
            )

    def remaining(self) -> float | None:
        """Return the seconds until the deadline of the current request; None when it has none.

        :raises ServiceUnavailable: It has passed.
        """
        seconds = self._limit()
        if seconds is None:
            return None
        now = time.monotonic()
        left = float(request.environ.setdefault(keys.SENT, now)) + seconds - now
        if left <= 0:
            raise _too_late("The deadline of this request has passed.")
        return left

    def _limit(self) -> float | None:
        """Return the seconds that the current request may take; None: no deadline."""
        return self._by_endpoint.get(request.endpoint or "", self._default)


def _too_late(text: str) -> ServiceUnavailable:
    """Return the exception for a response with 503 (RFC 9110, section 15.6.4)."""
    return ServiceUnavailable(text, retry_after=RETRY_AFTER)
