"""What decorators note on views and blueprints, and what holds for an endpoint in the end."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flask import Blueprint, Flask

#: Attributes of view functions (wrappers by functools.wraps have them, too) and blueprints.
LISTENERS = "_socketact_listeners"  #: names of the listeners by which it is reached
DEADLINE = "_socketact_deadline"  #: seconds, or None: it has none

_ABSENT = object()


def put(target: Any, mark: str, value: object) -> None:
    """Note something on a view function or a blueprint.

    :raises TypeError: `target` is something else.
    """
    if isinstance(target, type) or not (callable(target) or isinstance(target, Blueprint)):
        raise TypeError(
            f"{target!r} is neither a view function nor a blueprint: for a class of views, "
            "list the decorator in its attribute 'decorators'"
        )
    setattr(target, mark, value)


def of(app: Flask, endpoint: str, mark: str) -> Iterator[Any]:
    """Yield what is noted for `endpoint`: on its view, then on its blueprints, the innermost first."""
    for target in (app.view_functions.get(endpoint), *_blueprints(app, endpoint)):
        value = getattr(target, mark, _ABSENT)
        if value is not _ABSENT:
            yield value


def _blueprints(app: Flask, endpoint: str) -> Iterator[Any]:
    name = endpoint
    while "." in name:
        name = name.rpartition(".")[0]
        if name in app.blueprints:
            yield app.blueprints[name]
