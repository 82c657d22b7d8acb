"""The Flask extension: what the application can know of its server, and what it can control."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

from flask import Blueprint, Flask, current_app, request

from flask_socketact.application import config, restrictions, view_options
from flask_socketact.application.checks import Check, Runner
from flask_socketact.application.deadlines import Deadlines
from flask_socketact.application.draining import Draining
from flask_socketact.application.fallback_middleware import Middleware
from flask_socketact.application.health import Health
from flask_socketact.application.policies import Policies
from flask_socketact.application.server_events import Member
from flask_socketact.bridge import keys, request_context, server_info
from flask_socketact.logs import request_ids

if TYPE_CHECKING:
    from flask_socketact.application.breakers import Breaker

F = TypeVar("F", bound=Callable[..., Any])
#: A view function, or a blueprint.
T = TypeVar("T", bound=Callable[..., Any] | Blueprint)


class SocketAct(Draining):
    """Flask extension: health endpoints, metrics, checks, deadlines, holds and breakers.

    .. code-block:: python

        socketact = SocketAct()
        socketact.init_app(app)  # or SocketAct(app)

    :meth:`init_app` reads the configuration (``SOCKETACT_...``) once; later changes have no effect. One instance may
    serve several applications: they share its checks and breakers.

    The application also works under ``flask run``, in the test client, and under other WSGI servers. There,
    :attr:`listener` is None and :attr:`draining` is False.

    :param app: The application; None: call :meth:`init_app` later.
    """

    def __init__(self, app: Flask | None = None) -> None:
        self._checks: dict[str, Check] = {}
        self._breakers: dict[str, Breaker] = {}
        self._apps: WeakKeyDictionary[Flask, Deadlines] = WeakKeyDictionary()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Register the extension with an application.

        :param app: The application. Its configuration must be complete.
        :raises RuntimeError: `app` already has a SocketAct.
        :raises ValueError: A configuration key is unknown, or has a value that cannot be used.
        :raises ImportError: Metrics are configured, and prometheus_client is missing.
        """
        if "socketact" in app.extensions:
            raise RuntimeError(
                "A 'SocketAct' instance has already been registered on this Flask app. "
                "Import and use that instance instead."
            )
        settings = config.read(app.config)
        runner = Runner(app, self._checks, settings.check_cache)
        Health(settings, runner, self._is_draining, self._breaker_states).add_to(app)
        extra_environ: dict[str, Any] = {}
        gauges, count_late = None, lambda: None
        if settings.metrics is not None:
            from flask_socketact.application.metrics import definitions

            gauges, count_late = definitions.gauges(), definitions.count_late
            extra_environ[keys.OBSERVE] = definitions.observe
        if settings.request_id is not None:
            extra_environ[keys.ID_HEADER] = settings.request_id
            request_ids.install()
        if extra_environ and server_info.server is None:
            app.wsgi_app = Middleware(app.wsgi_app)  # type: ignore[method-assign]
        limits = Deadlines(settings.deadline, count_late)
        policies = Policies(app, settings, limits)
        policies.install(extra_environ)
        member = Member(app, policies, runner, self._breaker_states, gauges)
        if settings.metrics is not None:
            from flask_socketact.application.metrics import endpoint

            endpoint.add_to(app, settings, member.beat)
        server_info.register(member)
        self._apps[app] = limits
        app.extensions["socketact"] = self
        app.extensions[keys.MEMBER] = member  # keeps it alive as long as the application

    @property
    def listener(self) -> str | None:
        """Name of the listener that the current request came through (``FileDescriptorName=`` of the socket unit).

        None if the listener does not come from systemd.

        :raises RuntimeError: There is no current request.
        """
        name: str | None = request.environ.get(keys.LISTENER)
        return name

    @property
    def request_id(self) -> str:
        """ID of the current request; send it along in requests to other services.

        It is the ``X-Request-Id`` that a trusted proxy (gunicorn's ``forwarded_allow_ips``) sent, or else 16 random
        hexadecimal digits.

        :raises RuntimeError: There is no current request.
        """
        return request_context.id_of(request.environ)

    def only(self, *listeners: str) -> Callable[[T], T]:
        """Restrict a view function or a blueprint to some listeners. Requests through other listeners get 404.

        .. code-block:: python

            @app.get("/queue")
            @socketact.only("admin")
            def queue(): ...

        The decorator may stand below or above that of the route. It marks the function: all its routes are restricted.

        :param listeners: Names of listeners (``FileDescriptorName=`` of the socket units). If systemd passes
            listeners, and one of these names is not among them, the workers do not boot.
        :return: A decorator.
        :raises ValueError: No name is given, or a name that systemd does not accept.
        """
        if not listeners:
            raise ValueError("only() has no name: give the FileDescriptorName= of a listener")
        names = config.names(listeners)

        def restrict(target: T) -> T:
            return restrictions.restrict(target, names)

        return restrict

    def check(self, name: str, timeout: float = 1.0) -> Callable[[F], F]:
        """Register a function that checks whether something that the application needs is available.

        The check fails if the function raises, returns False, or takes longer than `timeout`. ``/readyz`` then responds
        with 503.

        .. code-block:: python

            @socketact.check("database")
            def database():
                db.session.execute(text("select 1"))

        The function, which may be a coroutine function, runs in an application context, in a thread of its own.
        Results are kept for ``SOCKETACT_CHECK_CACHE`` seconds. A check that is still running is not started again.

        :param name: Name of the check in ``/readyz``, in the log and in the metrics.
        :param timeout: Seconds.
        :return: A decorator, which returns the function unchanged.
        :raises ValueError: `name` is empty or in use, or `timeout` is not a positive number.
        """
        config.require_name("check", name)
        seconds = config.argument(f"check({name!r}): timeout", timeout)

        def register(function: F) -> F:
            known = self._checks.get(name)
            # An application factory that is called again defines the same function again.
            if known is not None and _code(known.function) is not _code(function):
                raise ValueError(f"check({name!r}) is registered already: give each check its own name")
            self._checks[name] = Check(name, function, seconds)
            return function

        return register

    def deadline(self, seconds: float | None) -> Callable[[T], T]:
        """Limit the time for the responses of a view function or a blueprint.

        The time starts when the proxy sent the request (``X-Request-Start``), or else when the request reached this
        machine. A request that is already late when a worker reads it gets 503, and the view is not called. A view
        that runs is not interrupted; it passes :meth:`remaining` on as a timeout.

        .. code-block:: python

            @app.get("/report")
            @socketact.deadline(2.0)
            def report(): ...

        The deadline of a view overrides that of its blueprint, which overrides ``SOCKETACT_DEADLINE``.

        :param seconds: The limit; None: no deadline.
        :return: A decorator.
        :raises ValueError: `seconds` is not a positive number.
        """
        limit = None if seconds is None else config.argument("deadline()", seconds)

        def limit_time(target: T) -> T:
            view_options.put(target, view_options.DEADLINE, limit)
            return target

        return limit_time

    def remaining(self) -> float | None:
        """Return the seconds until the deadline of the current request, for the timeouts of calls to other services.

        .. code-block:: python

            requests.get(URL, timeout=socketact.remaining())

        :return: More than 0; None if the request has no deadline.
        :raises werkzeug.exceptions.ServiceUnavailable: The deadline has passed; Flask responds with 503. This
            method never returns 0, which many libraries take for no timeout.
        :raises RuntimeError: There is no current request.
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
        """Return a circuit breaker for calls to another service. It is a decorator of the functions that call it.

        .. code-block:: python

            inventory = socketact.breaker("inventory", fallback=lambda sku: None)


            @inventory
            def stock(sku): ...

        After `fail_max` failures in a row the breaker is open, and the functions are not called. After `reset_timeout`
        seconds one call is tried. If it succeeds, the breaker closes. Each worker has its own state.

        :param name: Name of the service in ``/readyz`` and in the metrics.
        :param fail_max: Number of failures in a row, at least 1.
        :param reset_timeout: Seconds.
        :param exclude: Exceptions that do not count as failures.
        :param fallback: Called instead, with the same arguments, if a call fails or the breaker is open. Without it,
            an open breaker raises :exc:`pybreaker.CircuitBreakerError`.
        :raises ValueError: `name` is empty or in use, or a number is out of range.
        :raises ImportError: pybreaker is missing (install ``flask-socketact[breakers]``).
        """
        from flask_socketact.application.breakers import Breaker

        config.require_name("breaker", name)
        if name in self._breakers:
            raise ValueError(f"breaker({name!r}) exists already: use that one, or give each its own name")
        made = Breaker(name, fail_max=fail_max, reset_timeout=reset_timeout, exclude=exclude, fallback=fallback)
        return self._breakers.setdefault(name, made)

    def _is_draining(self) -> bool:
        return self.draining

    def _breaker_states(self) -> Mapping[str, str]:
        return {name: breaker.current_state for name, breaker in self._breakers.items()}


def _code(function: Callable[..., Any]) -> Any:
    return getattr(function, "__code__", function)
