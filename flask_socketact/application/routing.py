"""Routes that only some listeners reach. Each listener has a URL map of its own, in which other routes do not match.

So a route that the listener does not reach gives 404 for all methods, OPTIONS included, and no redirect to its
trailing slash; and it does not hide another route with the same path. ``url_for`` builds URLs of all routes.
"""

from __future__ import annotations

from collections.abc import Mapping

from flask import Flask
from werkzeug.routing import Map, Rule


class Routing:
    """The URL maps of one application."""

    def __init__(self, app: Flask, listeners: Mapping[str, frozenset[str]]) -> None:
        """Set the names of each endpoint's listeners; all listeners reach an endpoint that is not in `listeners`."""
        self._app = app
        self._listeners = listeners
        self._maps: dict[str | None, Map] = {}

    def map_for(self, listener: str | None) -> Map:
        """Return the URL map for requests through `listener`."""
        found = self._maps.get(listener)
        if found is None:
            hidden = {endpoint for endpoint, names in self._listeners.items() if listener not in names}
            found = self._maps[listener] = _without(self._app.url_map, hidden)
        return found


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
