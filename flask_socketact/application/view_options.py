"""Marks that decorators set on view functions and blueprints."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from flask import Blueprint, Flask

#: Names of the attributes. functools.wraps copies them to wrappers.
LISTENERS = "_socketact_listeners"  #: names of the listeners that reach it
DEADLINE = "_socketact_deadline"  #: seconds; None: no deadline

_ABSENT = object()


def put(target: Any, mark: str, value: object) -> None:
    """Set a mark on a view function or a blueprint.

    :raises TypeError: `target` is something else.
    """
    if isinstance(target, type) or not (callable(target) or isinstance(target, Blueprint)):
        raise TypeError(
            f"{target!r} is neither a view function nor a blueprint: for a view class, "
            "add the decorator to its attribute 'decorators'"
        )
    setattr(target, mark, value)


def of(app: Flask, endpoint: str, mark: str) -> Iterator[Any]:
    """Yield the values of a mark for `endpoint`: of its view, then of its blueprints, the innermost first."""
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
