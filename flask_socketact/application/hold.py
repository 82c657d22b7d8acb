"""Holds: work that a drain waits for."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import iscoroutinefunction
from types import TracebackType
from typing import Any, TypeVar, cast

from flask_socketact.bridge import holds

F = TypeVar("F", bound=Callable[..., Any])


class Hold:
    """A context manager, and a decorator of functions and coroutine functions. It may be used any number of times."""

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not name:
            raise ValueError(
                f"hold({name!r}): give the work a name, which the log shows if it takes longer than the drain time"
            )
        self._name = name
        self._entered: list[holds.Hold] = []

    def __enter__(self) -> None:
        self._entered.append(holds.take(self._name))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        holds.release(self._entered.pop())

    def __call__(self, function: F) -> F:
        """Return a function that calls `function` inside this hold."""
        name = self._name
        if iscoroutinefunction(function):

            @wraps(function)
            async def held(*args: Any, **kwargs: Any) -> Any:
                with Hold(name):
                    return await function(*args, **kwargs)

        else:

            @wraps(function)
            def held(*args: Any, **kwargs: Any) -> Any:
                with Hold(name):
                    return function(*args, **kwargs)

        return cast("F", held)
