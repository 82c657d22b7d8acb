"""Restrict view functions and blueprints to listeners: what :meth:`flask_socketact.SocketAct.only` does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from inspect import ismethod
from typing import Any, TypeVar, cast

from flask import Blueprint, abort, current_app, request

from flask_socketact.application import view_options
from flask_socketact.bridge import keys

#: A view function, or a blueprint.
T = TypeVar("T", bound=Callable[..., Any] | Blueprint)


def restrict(target: T, names: frozenset[str]) -> T:
    """Return `target`, marked as restricted to the listeners with these names.

    :raises TypeError: `target` is neither a view function nor a blueprint.
    """
    marked: Any = target if isinstance(target, Blueprint) else _checking(names, target)
    view_options.put(marked, view_options.LISTENERS, names & getattr(target, view_options.LISTENERS, names))
    for view in _wrapped_by(marked):  # if the decorator stands above the route, one of them is the route's view
        view_options.put(view, view_options.LISTENERS, names & getattr(view, view_options.LISTENERS, names))
    return cast("T", marked)


def _checking(names: frozenset[str], view: Any) -> Callable[..., Any]:
    """Return `view` with its own check of the listener: a decorator without functools.wraps may hide the mark."""
    if isinstance(view, type) or not callable(view):
        return cast("Callable[..., Any]", view)  # view_options.put rejects it

    @wraps(view)
    def checked(*args: Any, **kwargs: Any) -> Any:
        listener = request.environ.get(keys.LISTENER, current_app.config.get("SOCKETACT_LISTENER"))
        if listener not in names:
            abort(404)
        return current_app.ensure_sync(view)(*args, **kwargs)

    return checked


def _wrapped_by(view: Any) -> Iterator[Any]:
    """Yield the functions that `view` wraps, by functools.wraps. Bound methods are left out: they accept no marks."""
    while (view := getattr(view, "__wrapped__", None)) is not None:
        if hasattr(view, "__dict__") and not ismethod(view):
            yield view
