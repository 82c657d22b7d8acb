"""Routes that only some listeners reach. Each listener has a URL map of its own, in which other routes do not match.

So a route that the listener does not reach gives 404 for all methods, OPTIONS included, and no redirect to its
trailing slash; and it does not hide another route with the same path. ``url_for`` builds URLs of all routes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping

from flask import Flask
from werkzeug.routing import Map, Rule

#: Werkzeug compiles each rule by way of ast.parse(), which two threads of CPython before 3.13 must not call at the same
#: time: one of them gets SystemError (CPython issue 106905).
_compiling = threading.Lock()


class Routing:
    """The URL maps of one application."""

    def __init__(self, app: Flask, listeners: Mapping[str, frozenset[str]], known: Iterable[str | None]) -> None:
        """Set the names of each endpoint's listeners; all listeners reach an endpoint that is not in `listeners`.

        The maps of `known` listeners are made now, so that no request waits for them: 500 routes take 0.3 s.
        """
        self._app = app
        self._listeners = listeners
        self._maps: dict[str | None, Map] = {}
        for name in known:
            self.map_for(name)

    def map_for(self, listener: str | None) -> Map:
        """Return the URL map for requests through `listener`."""
        found = self._maps.get(listener)
        return found if found is not None else self._make(listener)

    def _make(self, listener: str | None) -> Map:
        hidden = {endpoint for endpoint, names in self._listeners.items() if listener not in names}
        with _compiling:
            if listener not in self._maps:
                self._maps[listener] = _without(self._app.url_map, hidden) if hidden else self._app.url_map
        return self._maps[listener]


def _without(whole: Map, hidden: set[str]) -> Map:
    """Return a copy of a URL map in which the rules of `hidden` endpoints build URLs, but match nothing."""
    return type(whole)(
        [_copy(rule, build_only=rule.build_only or rule.endpoint in hidden) for rule in whole.iter_rules()],
        default_subdomain=whole.default_subdomain,
        strict_slashes=whole.strict_slashes,
        merge_slashes=whole.merge_slashes,
        redirect_defaults=whole.redirect_defaults,
        converters=whole.converters,
        sort_parameters=whole.sort_parameters,
        sort_key=whole.sort_key,
        host_matching=whole.host_matching,
    )


def _copy(rule: Rule, *, build_only: bool) -> Rule:
    copy = rule.empty()
    copy.build_only = build_only
    # Attributes that Werkzeug does not copy, and one that Flask adds.
    copy.merge_slashes, copy.websocket = rule.merge_slashes, rule.websocket
    if hasattr(rule, "provide_automatic_options"):
        copy.provide_automatic_options = rule.provide_automatic_options  # type: ignore[attr-defined]
    return copy
