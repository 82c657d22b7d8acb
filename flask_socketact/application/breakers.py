"""Circuit breakers around calls to other services: pybreaker's, with a fallback. Their state is this process's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any, TypeVar, cast

try:
    import pybreaker
except ImportError as error:
    raise ImportError("pybreaker is missing: install flask-socketact[breakers]") from error

F = TypeVar("F", bound=Callable[..., Any])

Open = pybreaker.CircuitBreakerError


class Breaker(pybreaker.CircuitBreaker):
    """A breaker for one service. Called with a function it returns one that goes through the breaker."""

    def __init__(
        self,
        name: str,
        *,
        fail_max: int,
        reset_timeout: float,
        exclude: Iterable[type[BaseException]],
        fallback: Callable[..., Any] | None,
    ) -> None:
        # The call that opens it raises what it has failed with, as those before it.
        super().__init__(
            fail_max=fail_max,
            reset_timeout=reset_timeout,
            exclude=list(exclude),
            name=name,
            throw_new_error_on_trip=False,
        )
        self._fallback = fallback
        self._service = name

    @property
    def service(self) -> str:
        """The name that it was given."""
        return self._service

    def __call__(self, function: F) -> F:  # type: ignore[override]
        """Return `function`, called through the breaker.

        :raises TypeError: it is a coroutine function, which pybreaker does not know.
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

        With a fallback that is called instead, with the same arguments; also when `func` has
        failed, unless with what does not count as a failure (``exclude``).

        :raises Open: it is open, and there is no fallback.
        """
        try:
            return self._call(func, *args, **kwargs)
        except Exception as error:
            if self._fallback is None or not (isinstance(error, Open) or self.is_system_error(error)):
                raise
        return self._fallback(*args, **kwargs)

    def _call(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call `func` by the rules of the state: pybreaker's does so with a lock held, so that
        one thread of the process at a time would talk to the service."""
        state = self.state
        if state.name == pybreaker.STATE_CLOSED:
            return state.call(func, *args, **kwargs)
        if not self._lock.acquire(blocking=False):
            raise Open("Another thread tries whether the service is back")
        try:
            return super().call(func, *args, **kwargs)
        finally:
            self._lock.release()
