"""Work that a drain waits for."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import iscoroutinefunction
from types import TracebackType
from typing import Any, TypeVar, cast

from flask_socketact.bridge import holds

F = TypeVar("F", bound=Callable[..., Any])


class Hold:
    """A context manager, which may be used again and again, and a decorator of functions, coroutine functions too."""

    def __init__(self, name: str) -> None:
        if not isinstance(name, str) or not name:
            raise ValueError(f"hold({name!r}): give the work a name, to be shown in the log when its time is over")
        self._name = name
        self._taken: list[holds.Hold] = []

    def __enter__(self) -> None:
        self._taken.append(holds.take(self._name))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        holds.release(self._taken.pop())

    def __call__(self, function: F) -> F:
        """Return `function`, held for as long as it runs."""
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
