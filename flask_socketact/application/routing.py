"""Routes that exist by certain listeners alone: each listener has a map of its own, in which the others match nothing.

So what must not be reached is not matched: not for another method (405), not for OPTIONS, not for a redirect to
its slash; and it does not hide a rule of the same path that may be reached. URLs are built of all rules.
"""

from __future__ import annotations

from collections.abc import Mapping

from flask import Flask
from werkzeug.routing import Map, Rule


class Routing:
    """The maps of an application."""

    def __init__(self, app: Flask, listeners: Mapping[str, frozenset[str]]) -> None:
        """Take the names of `listeners` by endpoint; an endpoint without is reached by all."""
        self._app = app
        self._listeners = listeners
        self._maps: dict[str | None, Map] = {}

    def map_for(self, listener: str | None) -> Map:
        """Return the map of requests that come by `listener`."""
        found = self._maps.get(listener)
        if found is None:
            hidden = {endpoint for endpoint, names in self._listeners.items() if listener not in names}
            found = self._maps[listener] = _without(self._app.url_map, hidden)
        return found


def _without(whole: Map, hidden: set[str]) -> Map:
    """Return a copy of a map in which the rules of `hidden` endpoints only build URLs."""
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
    # What werkzeug does not copy, and what Flask has added.
    copy.merge_slashes, copy.websocket = rule.merge_slashes, rule.websocket
    if hasattr(rule, "provide_automatic_options"):
        copy.provide_automatic_options = rule.provide_automatic_options  # type: ignore[attr-defined]
    return copy
