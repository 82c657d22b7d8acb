"""The Flask side: what the application knows about the server that runs it, and controls."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import wraps
from inspect import ismethod
from typing import TYPE_CHECKING, Any, TypeVar, cast
from weakref import WeakKeyDictionary

from flask import Blueprint, Flask, abort, current_app, has_request_context, request

from flask_socketact.application import config, view_options
from flask_socketact.application.checks import Check, Runner
from flask_socketact.application.deadlines import Deadlines
from flask_socketact.application.fallback_middleware import Middleware
from flask_socketact.application.health import Health
from flask_socketact.application.hold import Hold
from flask_socketact.application.policies import Policies
from flask_socketact.application.server_events import Member
from flask_socketact.bridge import keys, request_context, server_info
from flask_socketact.logs import request_ids

if TYPE_CHECKING:
    from flask_socketact.application.breakers import Breaker

F = TypeVar("F", bound=Callable[..., Any])
#: A view function, or a blueprint.
T = TypeVar("T", bound=Callable[..., Any] | Blueprint)


class SocketAct:
    """Flask extension: what the server tells of a request and of itself, and what the application asks of it.

    .. code-block:: python

        socketact = SocketAct()
        socketact.init_app(app)  # or SocketAct(app)

    The configuration (``SOCKETACT_...``, see docs/application.md) is read by :meth:`init_app`, and not again
    after that. Checks and breakers belong to the instance, and are those of all applications that it
    is registered with.

    The same application runs under ``flask run`` and the test client: there no listener
    has a name, and nothing drains.
    """

    def __init__(self, app: Flask | None = None) -> None:
        self._checks: dict[str, Check] = {}
        self._breakers: dict[str, Breaker] = {}
        self._apps: WeakKeyDictionary[Flask, Deadlines] = WeakKeyDictionary()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Register with `app`.

        :raises RuntimeError: `app` has a SocketAct already.
        :raises ValueError: a configuration key is unknown, or has a value that cannot be used.
        :raises ImportError: the configuration asks for metrics, and prometheus_client is missing.
        """
        if "socketact" in app.extensions:
            raise RuntimeError(
                "A 'SocketAct' instance has already been registered on this Flask app. "
                "Import and use that instance instead."
            )
        settings = config.read(app.config)
        runner = Runner(app, self._checks, settings.check_cache)
        Health(settings, runner, self._is_draining, self._breaker_states).add_to(app)
        asks: dict[str, Any] = {}
        gauges, count_late = None, _ignore
        if settings.metrics is not None:
            from flask_socketact.application.metrics import definitions

            gauges, count_late = definitions.gauges(), definitions.count_late
            asks[keys.OBSERVE] = definitions.observe
        if settings.request_id is not None:
            asks[keys.ID_HEADER] = settings.request_id
            request_ids.install()
        if asks and server_info.server is None:
            app.wsgi_app = Middleware(app.wsgi_app)  # type: ignore[method-assign]
        limits = Deadlines(settings.deadline, count_late)
        policies = Policies(app, settings, limits)
        policies.install(asks)
        member = Member(app, policies, runner, self._breaker_states, gauges)
        if settings.metrics is not None:
            from flask_socketact.application.metrics import endpoint

            endpoint.add_to(app, settings, member.beat)
        server_info.join(member)
        self._apps[app] = limits
        app.extensions["socketact"] = self
        app.extensions[keys.MEMBER] = member  # which lives as long as the application

    @property
    def listener(self) -> str | None:
        """``FileDescriptorName=`` of the listener that the current request came by.

        None when systemd did not pass the listener.

        :raises RuntimeError: there is no current request.
        """
        name: str | None = request.environ.get(keys.LISTENER)
        return name

    @property
    def draining(self) -> bool:
        """Whether this worker takes nothing new and leaves soon.

        Changes while a request runs: a long answer can ask for it again and again. So can a
        thread of the application, which has no request.
        """
        is_draining: Callable[[], bool] | None = None
        if has_request_context():
            is_draining = request.environ.get(keys.DRAINING)
        elif server_info.server is not None:
            is_draining = server_info.server.is_draining
        return is_draining is not None and is_draining()

    @property
    def request_id(self) -> str:
        """The id of the current request, to hand on to other services: X-Request-Id as a trusted proxy
        (``forwarded_allow_ips``) has sent it, otherwise one that was made here.

        :raises RuntimeError: there is no current request.
        """
        return request_context.id_of(request.environ)

    def only(self, *listeners: str) -> Callable[[T], T]:
        """Return a decorator for a view, or a blueprint, that exists by these listeners alone.

        By others it is not found, whatever the method. ``listeners`` are names as ``FileDescriptorName=``
        of the socket units has them; one that there is not keeps the worker from booting.

        Below the route's decorator or above it. It marks the function itself, so a function that is the view of
        another route as well is restricted there, too.

        :raises ValueError: there is no name, or one that systemd would not accept.
        """
        if not listeners:
            raise ValueError("only() has no name: give the FileDescriptorName= of a listener")
        names = config.names(listeners)

        def restrict(target: T) -> T:
            marked: Any = target if isinstance(target, Blueprint) else _found_by(names, target)
            view_options.put(marked, view_options.LISTENERS, names & getattr(target, view_options.LISTENERS, names))
            for view in _wrapped_by(marked):  # the route above which we stand has one of them
                view_options.put(view, view_options.LISTENERS, names & getattr(view, view_options.LISTENERS, names))
            return cast("T", marked)

        return restrict

    def check(self, name: str, timeout: float = 1.0) -> Callable[[F], F]:
        """Return a decorator for a function that looks whether something is there that the application needs.

        It fails by raising, by returning False, or by not ending within `timeout` seconds; then ``/readyz`` answers
        503. It runs in an application context, in a thread of its own, beside the other checks, and not
        again before ``SOCKETACT_CHECK_CACHE`` seconds are over, or while it still runs.

        :raises ValueError: `name` is taken, or `timeout` is no positive number.
        """
        _refuse_no_name("check", name)
        seconds = _seconds(f"check({name!r}): timeout", timeout)

        def register(function: F) -> F:
            known = self._checks.get(name)
            # A factory that is called again defines the same function again.
            if known is not None and _code(known.function) is not _code(function):
                raise ValueError(f"check({name!r}) is registered already: give each check its own name")
            self._checks[name] = Check(name, function, seconds)
            return function

        return register

    def hold(self, name: str) -> Hold:
        """Return a context manager, and decorator, for work that a drain waits for as it does for requests.

        In a request, after it, or in a thread of the application. When the drain time
        (``graceful_timeout``) is over the work is cut short, and `name` is in the log.

        :raises ValueError: `name` is no name.
        """
        return Hold(name)

    def deadline(self, seconds: float | None) -> Callable[[T], T]:
        """Return a decorator for a view, or a blueprint, whose answer must not take longer.

        The time begins when the request was sent on: see X-Request-Start in docs/application.md. One that is
        late before anything has run for it is answered with 503. A view that runs is not interrupted: it hands
        :meth:`remaining` on. The view's own deadline counts before its blueprint's, and that before
        ``SOCKETACT_DEADLINE``; None: no deadline.

        :raises ValueError: `seconds` is no positive number.
        """
        limit = None if seconds is None else _seconds("deadline()", seconds)

        def limit_time(target: T) -> T:
            view_options.put(target, view_options.DEADLINE, limit)
            return target

        return limit_time

    def remaining(self) -> float | None:
        """Return how many seconds are left for the current request, as the timeout of what it asks others for.

        None when it has no deadline. When the time is over the request ends with 503, as most clients of
        other services take a timeout of zero for none.

        :raises werkzeug.exceptions.ServiceUnavailable: the time is over.
        :raises RuntimeError: there is no current request.
        """
        return self._apps[current_app._get_current_object()].remaining()  # type: ignore[attr-defined]

    def breaker(
        self,
        name: str,
        *,
        fail_max: int = 5,
        reset_timeout: float = 30.0,
        exclude: Iterable[type[BaseException]] = (),
        fallback: Callable[..., Any] | None = None,
    ) -> Breaker:
        """Return a circuit breaker for calls to another service, a decorator of the functions that call it.

        After `fail_max` failures in a row it is open: for `reset_timeout` seconds nothing is called, and then
        one call tries. An exception of `exclude` is no failure. Without a `fallback`, called with the
        same arguments in the place of what fails, an open breaker raises ``pybreaker.CircuitBreakerError``.
        Each worker has a state of its own.

        :raises ValueError: `name` is taken, or a number makes no sense.
        :raises ImportError: pybreaker is missing (extra ``[breakers]``).
        """
        from flask_socketact.application.breakers import Breaker

        _refuse_no_name("breaker", name)
        if name in self._breakers:
            raise ValueError(f"breaker({name!r}) is there already: use that one, or give each its own name")
        if not isinstance(fail_max, int) or isinstance(fail_max, bool) or fail_max < 1:
            raise ValueError(f"breaker({name!r}): fail_max is {fail_max!r}: give a number of failures, at least 1")
        seconds = _seconds(f"breaker({name!r}): reset_timeout", reset_timeout)
        self._breakers[name] = Breaker(
            name, fail_max=fail_max, reset_timeout=seconds, exclude=exclude, fallback=fallback
        )
        return self._breakers[name]

    def _is_draining(self) -> bool:
        return self.draining

    def _breaker_states(self) -> Mapping[str, str]:
        return {name: breaker.current_state for name, breaker in self._breakers.items()}


def _found_by(names: frozenset[str], view: Any) -> Callable[..., Any]:
    """Return `view`, which asks again by whom it is found: another decorator may have dropped the mark."""
    if isinstance(view, type) or not callable(view):
        return cast("Callable[..., Any]", view)  # refused by marks.put

    @wraps(view)
    def found(*args: Any, **kwargs: Any) -> Any:
        listener = request.environ.get(keys.LISTENER, current_app.config.get("SOCKETACT_LISTENER"))
        if listener not in names:
            abort(404)
        return current_app.ensure_sync(view)(*args, **kwargs)

    return found


def _wrapped_by(view: Any) -> Iterator[Any]:
    """Yield what functools.wraps says that `view` wraps, layer by layer, as far as it takes marks.

    A bound method takes none, and cannot be below a decorator of ours.
    """
    while (view := getattr(view, "__wrapped__", None)) is not None:
        if hasattr(view, "__dict__") and not ismethod(view):
            yield view


def _refuse_no_name(what: str, name: object) -> None:
    if not isinstance(name, str) or not name:
        raise ValueError(f"{what}({name!r}): give it a name")


def _seconds(what: str, value: object) -> float:
    try:
        return config.seconds(value)
    except ValueError as error:
        raise ValueError(f"{what} is {value!r}: {error}") from error


def _code(function: Callable[..., Any]) -> Any:
    return getattr(function, "__code__", function)


def _ignore() -> None:
    """Count nothing."""
