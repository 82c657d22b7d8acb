"""The base of our variants of gunicorn's workers.

It prepares the environ for the application, and protects gunicorn's loop from its exceptions and its changes to the
socket.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flask_socketact.addresses import unmapped
from flask_socketact.bridge import keys, request_context
from flask_socketact.errors import ApplicationError
from flask_socketact.handover.mailbox import Origin
from flask_socketact.http import framing, proxy_protocol, request_body, rules
from flask_socketact.http.client_socket import ClientSocket, TLSClientSocket
from flask_socketact.shared.slot import Field
from flask_socketact.workers.base import BaseWorker, listener_name
from flask_socketact.workers.gunicorn_body import Body, Exchange
from flask_socketact.workers.lasting import is_event_stream
from flask_socketact.workers.request_status import SWITCHED, status_of

# For type checkers the mixin has a base; at run time the classes that it is mixed into provide it.
if TYPE_CHECKING:
    _Base = BaseWorker
else:
    _Base = object

#: Name of the listener that accepted the connection which this thread or greenlet serves.
_listener: ContextVar[str | None] = ContextVar("listener", default=None)


@dataclass(frozen=True)
class Listener:
    """Name and address of a listener. A drain closes the listener itself, maybe before a connection needs them."""

    fdname: str | None
    address: Any

    def getsockname(self) -> Any:
        return self.address


@dataclass(frozen=True)
class CarriedClient:
    """A connection that another worker has handed over."""

    address: Any  #: of the client
    server_address: Any  #: of our side
    origin: Origin
    connection: socket.socket

    def came_through(self, listener: Any) -> bool:
        """Return whether `listener` has the name and address of the one that accepted the connection."""
        address = listener.getsockname()
        same_kind = type(address) is type(self.server_address) and address[1:2] == self.server_address[1:2]
        return bool(listener_name(listener) == self.origin.listener and same_kind)


class GunicornMixin(_Base):
    """Mixin for gunicorn's worker classes; it comes before them and `BaseWorker` in the bases."""

    wsgi: Callable[..., Iterable[bytes]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.upgrades: set[Exchange] = set()  #: requests to change the protocol, and those that have
        self._began_at: dict[object, float] = {}  # start of each request in flight, the oldest first

    def init_process(self) -> None:
        post_worker_init = self.cfg.post_worker_init

        def wrap_after(worker: Any) -> None:
            """Wrap the application after the user's hook, so that gunicorn's start_response reaches us first."""
            post_worker_init(worker)
            self._application = self.wsgi
            self.wsgi = self._run_application

        self.cfg.set("post_worker_init", wrap_after)
        super().init_process()

    def take_over(
        self, origin: Origin, connections: list[socket.socket], refused: list[str]
    ) -> Iterator[CarriedClient]:
        """Yield the connections of a mailbox message that this worker can serve."""
        for connection, address in self.carrier.receive(origin, connections, refused):
            if origin.proxy or (origin.served and self.cfg.proxy_protocol != "off"):
                connection.close()  # the parser would expect the PROXY header again
                continue
            self.slot[Field.CARRIED_IN] += 1
            yield CarriedClient(address, connection.getsockname(), origin, connection)

    def _run_application(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        response = start_response.__self__  # type: ignore[attr-defined]  # gunicorn's, a bound method
        self.describe_request(environ, _listener.get(), response.req)
        client = environ["gunicorn.socket"]
        if response.req.req_number == 1:
            self.note_wait(client)
        exchange = environ[keys.EXCHANGE] = Exchange(response, _lend(client))
        environ["gunicorn.socket"] = exchange.lent_socket
        request_body.guard(response.req)
        extra: AbstractContextManager[None] = nullcontext()
        if environ.get("HTTP_UPGRADE", "h2c").lower() != "h2c":
            self.upgrades.add(exchange)
            self.slot[Field.WEBSOCKETS] = len(self.upgrades)
            extra = self.offering_websocket(environ)
        try:
            with self.converting_errors(exchange), extra:
                body = self._application(environ, self._start_response_for(environ, start_response, exchange))
            exchange.lent_socket.restore()
        except BaseException as error:
            if self.is_child or not self._has_upgraded(exchange) or self.has_raised(error):
                raise
            if not isinstance(error, StopIteration):  # how flask-sock ends
                self.log.exception("Error in a WebSocket")
            exchange.response.status = SWITCHED
            raise StopIteration from None
        finally:
            if self.is_child:
                self.fork_hooks.end_child(exchange.failure)
        if not self._has_upgraded(exchange):
            return Body(self, exchange, body)
        exchange.response.status = SWITCHED  # whatever the application has returned cannot be sent
        Body(self, exchange, body).close()
        raise StopIteration

    def offering_websocket(self, environ: dict[str, Any]) -> AbstractContextManager[None]:  # noqa: ARG002 (gevent's does)
        """Add to `environ` what libraries for WebSockets use besides ``gunicorn.socket``."""
        return nullcontext()

    def _has_upgraded(self, exchange: Exchange) -> bool:
        """Return whether the application speaks another protocol on the connection."""
        return exchange in self.upgrades and exchange.lent_socket.is_used

    def begin_stream(self) -> bool:
        environ = request_context.environ()
        if environ is not None and not environ[keys.EXCHANGE].is_stream:
            environ[keys.EXCHANGE].is_stream = True
            self.slot[Field.STREAMS] += 1
        return True

    def _start_response_for(
        self, environ: dict[str, Any], start_response: Callable[..., Any], exchange: Exchange
    ) -> Callable[..., Any]:
        """Return the application's start_response for one request."""

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], None]:
            """Start the response. In a drain it is the last of the connection, unless that can be handed over."""
            if exchange.is_client_error:
                exchange.response.force_close()  # what follows is not a request
            elif self.is_draining() and self.keeps_connections():
                exchange.response.must_close = False  # gunicorn closes every connection in a drain
            elif self.is_draining():
                exchange.response.force_close()
            if name := environ.get(keys.ID_HEADER):
                headers = [*headers, (name, request_context.id_of(environ))]
            if exc_info and not exchange.response.headers_sent:
                framing.start_again(exchange.response)
            start_response(status, headers, exc_info)
            if exchange.response.response_length is None and is_event_stream(headers):
                self.begin_stream()
            return exchange.write

        return start

    @contextmanager
    def converting_errors(self, exchange: Exchange) -> Iterator[None]:
        """Convert errors of the application that gunicorn would take for errors of the client."""
        try:
            yield
        except BaseException as error:
            exchange.failure = error
            is_for_gunicorn = isinstance(error, StopIteration) or exchange.is_client_error or self.has_raised(error)
            if self.is_child or is_for_gunicorn or (isinstance(error, Exception) and not isinstance(error, OSError)):
                raise
            raise ApplicationError(f"{type(error).__name__}: {error}") from error

    def keeps_connections(self) -> bool:
        """Return whether a connection can be handed over after a response that starts now."""
        return False

    def has_raised(self, error: BaseException) -> bool:  # noqa: ARG002 (gevent's uses it)
        """Return whether the worker itself has raised `error` in the application, to end a greenlet."""
        return False

    def handle(self, listener: Any, client: Any, address: Any) -> None:
        """Serve a connection until it is closed."""
        _listener.set(listener_name(listener))
        self.slot[Field.ACCEPTED] += 1
        self.slot[Field.OPEN] += 1
        if isinstance(address, tuple):
            address = (unmapped(address[0]), *address[1:])
        try:
            super().handle(listener, client, address)
        finally:
            request_context.leave()
            self.slot[Field.OPEN] -= 1

    def handle_request(self, listener: Any, request: Any, client: Any, address: Any) -> Any:
        rules.check(request)
        if not proxy_protocol.tells_address(request.proxy_protocol_info):
            request.proxy_protocol_info = None
        with self.serving(client):
            return super().handle_request(listener, request, client, address)

    @contextmanager
    def serving(self, client: Any) -> Iterator[None]:  # noqa: ARG002 (gevent's uses it)
        """Count a request of `client` while it is served."""
        if self.nr + 1 >= self.max_requests and self.end_at_max_requests():
            self.max_requests = self.nr + 1  # gunicorn ends the worker at this number
        self.slot[Field.IN_FLIGHT] += 1
        request_context.leave()
        began = time.monotonic()
        token = object()
        self._began_at[token] = began
        self._note_oldest()
        failure: BaseException | None = None
        try:
            yield
        except BaseException as error:  # gunicorn logs it and sends an error page
            failure = error
            raise
        finally:
            self._finish(began, failure)
            if failure is None:
                request_context.leave()
            failure = None  # break the reference cycle with this frame
            del self._began_at[token]
            self._note_oldest()
            self.slot[Field.IN_FLIGHT] -= 1
            self.slot[Field.REQUESTS] = self.nr

    def _note_oldest(self) -> None:
        self.slot[Field.OLDEST] = int(next(iter(self._began_at.values()), 0.0) * 1e9)

    def _finish(self, began: float, failure: BaseException | None) -> None:
        """Count a finished request; if it failed, by the fault of the client or of the application."""
        environ = request_context.environ()
        if environ is None:  # a hook failed before the application ran
            self.slot[Field.ERRORS] += failure is not None
            return
        exchange: Exchange = environ[keys.EXCHANGE]
        exchange.lent_socket.take_back(self.drain.close_status)
        if exchange in self.upgrades:
            self.upgrades.remove(exchange)
            self.slot[Field.WEBSOCKETS] = len(self.upgrades)
        self.slot[Field.STREAMS] -= exchange.is_stream
        # gunicorn's own errors are of the client's socket, and its StopIteration closes a connection.
        is_client_error = exchange.is_client_error or (exchange.failure is None and isinstance(failure, OSError))
        status = status_of(exchange.response, exchange.failure, is_client_error=is_client_error)
        if status is None or status >= "5":
            self.slot[Field.ERRORS] += 1
        self.observe(environ, status, began)
        exchange.failure = None  # break the reference cycle: error, frames, exchange


def _lend(client: Any) -> ClientSocket | TLSClientSocket:
    return TLSClientSocket(client) if hasattr(client, "do_handshake") else ClientSocket(client)
