"""What our variants of gunicorn's own workers share: they tell the application what it needs to know, and let nothing
that it raises, or does to its socket, reach gunicorn's loop."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gunicorn.http.wsgi import FileWrapper

from flask_socketact.addresses import unmapped
from flask_socketact.bridge import keys, request_context
from flask_socketact.errors import ApplicationError
from flask_socketact.handover.mailbox import Origin
from flask_socketact.http import request_body
from flask_socketact.http.client_socket import ClientSocket, TLSClientSocket
from flask_socketact.shared.scoreboard import Field
from flask_socketact.workers.base import BaseWorker, listener_name
from flask_socketact.workers.outcome import status_of

# What the mixin takes for granted; its bases are those of the classes that it is mixed into.
if TYPE_CHECKING:
    _Base = BaseWorker
else:
    _Base = object

#: Name of the listener by which the connection came that this thread or greenlet serves.
_listener: ContextVar[str | None] = ContextVar("listener", default=None)


@dataclass(frozen=True)
class Listener:
    """What a connection needs to know of its listener, which is closed in a drain, perhaps before it is asked."""

    fdname: str | None
    address: Any

    def getsockname(self) -> Any:
        return self.address


@dataclass(frozen=True)
class CarriedClient:
    """A connection that comes from another worker."""

    address: Any  #: of the client
    server_address: Any  #: address on our side
    origin: Origin
    connection: socket.socket

    def came_through(self, listener: Any) -> bool:
        address = listener.getsockname()
        same_kind = type(address) is type(self.server_address) and address[1:2] == self.server_address[1:2]
        return bool(listener_name(listener) == self.origin.listener and same_kind)


class Exchange:
    """One request, its response, and what went wrong."""

    def __init__(self, response: Any, lent_socket: ClientSocket | TLSClientSocket) -> None:
        self.response = response  #: gunicorn's
        self.lent_socket = lent_socket
        self.failure: BaseException | None = None
        self.write_error: OSError | None = None  #: of the client

    @property
    def is_client_error(self) -> bool:
        """Whether the client has broken off, or has sent a malformed body."""
        return self.write_error is not None or request_body.is_broken(self.response.req)


class GunicornMixin(_Base):
    """Mixed into gunicorn's classes, before them and `BaseWorker`."""

    wsgi: Callable[..., Iterable[bytes]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._began_at: dict[object, float] = {}  # requests in flight, the oldest first

    def init_process(self) -> None:
        post_worker_init = self.cfg.post_worker_init

        def wrap_after(worker: Any) -> None:
            """Wrap what the user's hook has made of the application: gunicorn's start_response goes to us first."""
            post_worker_init(worker)
            self._application = self.wsgi
            self.wsgi = self._run_application

        self.cfg.set("post_worker_init", wrap_after)
        super().init_process()

    def take_over(
        self, origin: Origin, connections: list[socket.socket], refused: list[str]
    ) -> Iterator[CarriedClient]:
        """Return what may be served of a message of the mailbox."""
        for connection, address in self.carrier.receive(origin, connections, refused):
            if origin.proxy or (origin.served and self.cfg.proxy_protocol != "off"):
                connection.close()  # the parser would want the PROXY header once more
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
        try:
            with self._telling_errors_apart(exchange):
                body = self._application(environ, self._start_response_for(environ, start_response, exchange))
            exchange.lent_socket.restore()
        finally:
            if self.is_child:
                self.forks.end_child(exchange.failure)
        return (_File if isinstance(body, FileWrapper) else _Body)(self, exchange, body)

    def _start_response_for(
        self, environ: dict[str, Any], start_response: Callable[..., Any], exchange: Exchange
    ) -> Callable[..., Any]:
        """Return the start_response of one request, for the application."""

        def start_or_end(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], None]:
            """A response that begins in the drain is the connection's last, whenever its request came, unless that can
            go on in another worker."""
            if "HTTP_UPGRADE" in environ and exchange.lent_socket.is_used:  # it failed, and nothing there is HTTP
                exchange.response.force_close()
            elif self.is_draining() and self.keeps_connections():
                exchange.response.must_close = False  # gunicorn ends every connection in a drain
            elif self.is_draining():
                exchange.response.force_close()
            if name := environ.get(keys.ID_HEADER):
                headers.append((name, request_context.id_of(environ)))
            write = start_response(status, headers, exc_info)

            def write_or_note(data: bytes) -> None:
                try:
                    write(data)
                except OSError as error:
                    exchange.write_error = error
                    raise

            return write_or_note

        return start_or_end

    @contextmanager
    def _telling_errors_apart(self, exchange: Exchange) -> Iterator[None]:
        """Tell an error of the application's from one of the client's, which gunicorn knows how to take."""
        try:
            yield
        except BaseException as error:
            exchange.failure = error
            is_meant = isinstance(error, StopIteration) or exchange.is_client_error or self.has_raised(error)
            if self.is_child or is_meant or (isinstance(error, Exception) and not isinstance(error, OSError)):
                raise
            raise ApplicationError(f"{type(error).__name__}: {error}") from error

    def keeps_connections(self) -> bool:
        """Whether a connection can go on in another worker when an answer that begins now has ended."""
        return False

    def has_raised(self, error: BaseException) -> bool:  # noqa: ARG002 (gevent's looks at it)
        """Whether the worker itself has raised `error` in the application, to end it."""
        return False

    def handle(self, listener: Any, client: Any, address: Any) -> None:
        """Serve a connection, for as long as it lasts."""
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
        with self.serving(client):
            return super().handle_request(listener, request, client, address)

    @contextmanager
    def serving(self, client: Any) -> Iterator[None]:  # noqa: ARG002 (gevent's looks at it)
        """Count a request of `client`."""
        if self.nr + 1 >= self.max_requests and self.end_at_max_requests():
            self.max_requests = self.nr + 1  # gunicorn ends it
        self.slot[Field.IN_FLIGHT] += 1
        request_context.leave()
        began = time.monotonic()
        token = object()
        self._began_at[token] = began
        self._note_oldest()
        failure: BaseException | None = None
        try:
            yield
        except BaseException as error:  # which is logged and answered outside
            failure = error
            raise
        finally:
            self._finish(began, failure)
            if failure is None:
                request_context.leave()
            failure = None  # it refers to this frame
            del self._began_at[token]
            self._note_oldest()
            self.slot[Field.IN_FLIGHT] -= 1
            self.slot[Field.REQUESTS] = self.nr

    def _note_oldest(self) -> None:
        self.slot[Field.OLDEST] = int(next(iter(self._began_at.values()), 0.0) * 1e9)

    def _finish(self, began: float, failure: BaseException | None) -> None:
        """Count a request that has ended, by whose fault it failed if it did."""
        environ = request_context.environ()
        if environ is None:  # a hook has failed, before the application
            self.slot[Field.ERRORS] += failure is not None
            return
        exchange: Exchange = environ[keys.EXCHANGE]
        exchange.lent_socket.take_back()
        # gunicorn's own errors are of the client's socket, and its StopIteration closes a connection.
        is_client_error = exchange.is_client_error or (exchange.failure is None and isinstance(failure, OSError))
        status = status_of(exchange.response, exchange.failure, is_client_error=is_client_error)
        if status is None or status >= "5":
            self.slot[Field.ERRORS] += 1
        self.observe(environ, status, began)
        exchange.failure = None  # it refers to frames that refer to the exchange, and to the body


class _Body:
    """What the application has returned, for gunicorn to iterate over and to close."""

    def __init__(self, worker: GunicornMixin, exchange: Exchange, body: Iterable[bytes]) -> None:
        self._worker = worker
        self._exchange = exchange
        self._body = body
        with worker._telling_errors_apart(exchange):
            self._pieces = iter(body)

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            with self._worker._telling_errors_apart(self._exchange):
                piece = next(self._pieces, None)
                # Before gunicorn sends the head, so that a 500 can take its place.
                if self._exchange.response.status is None:
                    raise AssertionError("the application has sent a body without calling start_response()")
                if not isinstance(piece, bytes | None):
                    raise TypeError(f"{piece!r:.80} is not a byte string")
            self._exchange.lent_socket.restore()
        finally:
            if self._worker.is_child:
                self._worker.forks.end_child(self._exchange.failure)
        if piece is None:
            raise StopIteration
        return piece

    def close(self) -> None:
        close = getattr(self._body, "close", None)
        if close is not None:
            with self._worker._telling_errors_apart(self._exchange):
                close()


class _File(_Body, FileWrapper):
    """The same for a file, which gunicorn gives to the kernel if it can."""

    def __init__(self, worker: GunicornMixin, exchange: Exchange, file: FileWrapper) -> None:
        super().__init__(worker, exchange, file)
        self.filelike, self.blksize = file.filelike, file.blksize


def _lend(client: Any) -> ClientSocket | TLSClientSocket:
    return TLSClientSocket(client) if hasattr(client, "do_handshake") else ClientSocket(client)
