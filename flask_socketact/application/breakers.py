"""Circuit breakers for calls to other services: those of pybreaker, with a fallback. Each process has its own state."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any, TypeVar, cast

from flask_socketact.application import config

try:
    import pybreaker
except ImportError as error:
    raise ImportError("pybreaker is missing: install flask-socketact[breakers]") from error

F = TypeVar("F", bound=Callable[..., Any])

#: What an open breaker raises.
Open = pybreaker.CircuitBreakerError


class Breaker(pybreaker.CircuitBreaker):
    """Circuit breaker for one service; :meth:`flask_socketact.SocketAct.breaker` describes the arguments."""

    def __init__(
        self,
        name: str,
        *,
        fail_max: int,
        reset_timeout: float,
        exclude: Iterable[type[BaseException]],
        fallback: Callable[..., Any] | None,
    ) -> None:
        if not isinstance(fail_max, int) or isinstance(fail_max, bool) or fail_max < 1:
            raise ValueError(f"breaker({name!r}): fail_max is {fail_max!r}: give a number of failures, at least 1")
        super().__init__(
            fail_max=fail_max,
            reset_timeout=config.argument(f"breaker({name!r}): reset_timeout", reset_timeout),
            exclude=list(exclude),
            name=name,
            throw_new_error_on_trip=False,  # the call that opens it raises its own error, as earlier ones did
        )
        self._fallback = fallback
        self._service = name

    @property
    def service(self) -> str:
        """Name of the breaker."""
        return self._service

    def __call__(self, function: F) -> F:  # type: ignore[override]
        """Return a function that calls `function` through the breaker.

        :raises TypeError: `function` is a coroutine function, which pybreaker does not support.
        """
        if iscoroutinefunction(function):
            raise TypeError(
                f"breaker({self._service!r}) cannot call the coroutine function {function.__name__}: "
                "give it a function that does not await"
            )

        @wraps(function)
        def through(*args: Any, **kwargs: Any) -> Any:
            return self.call(function, *args, **kwargs)

        return cast("F", through)

    def call(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call `func`, unless the breaker is open.

        If the breaker is open, or `func` fails, call the fallback with the same arguments instead. An exception of
        ``exclude`` is not a failure, and is raised.

        :raises pybreaker.CircuitBreakerError: The breaker is open, and there is no fallback.
        """
        try:
            return self._call(func, *args, **kwargs)
        except Exception as error:
            if self._fallback is None or not (isinstance(error, Open) or self.is_system_error(error)):
                raise
        return self._fallback(*args, **kwargs)

    def _call(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call `func` by the rules of the breaker's state.

        pybreaker's own method holds a lock during the call, so only one thread at a time could call the service.
        """
        state = self.state
        if state.name == pybreaker.STATE_CLOSED:
            return state.call(func, *args, **kwargs)
        if not self._lock.acquire(blocking=False):
            raise Open("another thread is testing whether the service is available again")
        try:
            return super().call(func, *args, **kwargs)
        finally:
            self._lock.release()
