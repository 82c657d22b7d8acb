"""Apply the marks of an application's views: which listeners reach each endpoint, and how long it may take."""

from __future__ import annotations

import threading
from typing import Any

from flask import Flask, Request
from werkzeug.routing import MapAdapter

from flask_socketact.application import view_options
from flask_socketact.application.config import PREFIX, Settings
from flask_socketact.application.deadlines import Deadlines
from flask_socketact.application.queue_time import waited
from flask_socketact.application.routing import Routing
from flask_socketact.bridge import keys, server_info


class Policies:
    """The marks of one application, read when it is complete, and again if views are added later."""

    def __init__(self, app: Flask, settings: Settings, deadlines: Deadlines) -> None:
        self._app = app
        self._settings = settings
        self._deadlines = deadlines
        self._views = -1  # number of views at the last reading
        self._routing: Routing | None = None
        self._reading = threading.Lock()
        self._has_warned = False

    def install(self, extra_environ: dict[str, Any]) -> None:
        """Apply the marks to each request, and add `extra_environ`, which the worker reads, to its environ."""
        app, deadlines, settings = self._app, self._deadlines, self._settings
        bind, observes = app.create_url_adapter, keys.OBSERVE in extra_environ

        def create_url_adapter(request: Request | None) -> MapAdapter | None:
            if request is None:
                return bind(request)
            if self._views != len(app.view_functions):
                self.read_new_marks()
            environ = request.environ
            if extra_environ:
                environ.update(extra_environ)
                if observes:
                    environ[keys.REQUEST] = request
                    if environ.get(keys.FIRST):
                        waited(environ)  # later the kernel does not know
            if deadlines.shortest is not None:
                deadlines.begin(environ)
            whole = bind(request)
            if self._routing is not None and whole is not None:
                whole.map = self._routing.map_for(settings.listener_of(environ))
            return whole

        # The first method that Flask calls for a request. A subclass of Flask is the application's choice, not ours.
        app.create_url_adapter = create_url_adapter  # type: ignore[method-assign]
        self._ours, self._has_extra = create_url_adapter, bool(extra_environ)

    def settle(self) -> None:
        """Read the marks of all views of the complete application. If it uses none of this, take no part in requests.

        :raises ValueError: A view is restricted to a listener that systemd does not pass.
        """
        self._views = len(self._app.view_functions)
        self.read_marks()
        is_needed = self._has_extra or self._routing is not None or self._deadlines.shortest is not None
        if not is_needed and vars(self._app).get("create_url_adapter") is self._ours:
            del self._app.create_url_adapter

    def read_marks(self) -> None:
        """Read the marks of all views.

        :raises ValueError: A view is restricted to a listener that systemd does not pass.
        """
        app = self._app
        listeners, limits = {}, {}
        for endpoint in list(app.view_functions):
            if restrictions := list(view_options.of(app, endpoint, view_options.LISTENERS)):
                listeners[endpoint] = frozenset.intersection(*restrictions)
            if seconds := list(view_options.of(app, endpoint, view_options.DEADLINE)):
                limits[endpoint] = seconds[0]  # the innermost
        self._deadlines.set(limits)
        self._deadlines.install(app)
        known = server_info.server.listener_names if server_info.server is not None else []
        self._reject_unknown({name for names in listeners.values() for name in names}, known)
        self._routing = Routing(app, listeners, known or [self._settings.listener]) if listeners else None

    def read_new_marks(self) -> None:
        """Read the marks again if views were added. Other requests wait, as they must not reach a restricted view.

        :raises ValueError: As above; only for the first request, and the new views are not found.
        """
        with self._reading:
            views = len(self._app.view_functions)
            if views != self._views:
                try:
                    self.read_marks()
                finally:
                    self._views = views

    def _reject_unknown(self, wanted: set[str], known: list[str]) -> None:
        """Check that systemd passes the listeners that the application names: those that are `known`."""
        wanted |= self._settings.details_listener
        unknown = sorted(wanted.difference(known))
        if not unknown:
            return
        if known:
            raise ValueError(
                f"systemd passes no listener {_quoted(unknown)}, only {_quoted(known)}: correct the name, or add "
                "a socket unit with this FileDescriptorName="
            )
        if not self._has_warned and self._settings.listener is None:
            self._has_warned = True
            self._app.logger.warning(
                "systemd passes no listeners, so views that are restricted to %s respond with 404. "
                "For development, set %sLISTENER = %r",
                _quoted(unknown),
                PREFIX,
                unknown[0],
            )


def _quoted(names: list[str]) -> str:
    return " or ".join(map(repr, names)) if len(names) < 3 else ", ".join(map(repr, names))  # noqa: PLR2004
