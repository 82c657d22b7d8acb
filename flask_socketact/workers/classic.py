"""What our variants of gunicorn's own workers share: they tell the application what it needs to know."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from flask_socketact import current
from flask_socketact.scoreboard import Field
from flask_socketact.workers.lifecycle import Lifecycle, listener_name

#: Name of the listener by which the connection came that this thread or greenlet serves.
_listener: ContextVar[str | None] = ContextVar("listener", default=None)
#: Environ key: gunicorn's response.
_RESPONSE = "socketact.response"


class ClassicWorker(Lifecycle):
    """Mixed into gunicorn's classes, before them."""

    wsgi: Callable[..., Iterable[bytes]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._begun: dict[object, float] = {}  # requests in flight, the oldest first

    def load_wsgi(self) -> None:
        super().load_wsgi()
        self._application = self.wsgi
        self.wsgi = self._run_application

    def _run_application(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        response = start_response.__self__  # type: ignore[attr-defined]  # gunicorn's, a bound method
        self.describe_request(environ, _listener.get(), response.req)
        if response.req.req_number == 1:
            self.note_wait(environ["gunicorn.socket"])
        environ[_RESPONSE] = response

        def start_or_end(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Callable[[bytes], None]:
            """An answer that begins in the drain is the connection's last, whenever its request came."""
            if self.is_draining():
                response.force_close()
            if name := environ.get(current.ID_HEADER):
                headers.append((name, current.id_of(environ)))
            if status >= "5":
                self.slot[Field.ERRORS] += 1
            write: Callable[[bytes], None] = start_response(status, headers, exc_info)
            return write

        try:
            return self._application(environ, start_or_end)
        except Exception:
            self.slot[Field.ERRORS] += 1
            raise

    def handle(self, listener: Any, client: Any, address: Any) -> None:
        """Serve a connection, for as long as it lasts."""
        _listener.set(listener_name(listener))
        self.slot[Field.ACCEPTED] += 1
        self.slot[Field.OPEN] += 1
        try:
            super().handle(listener, client, address)
        finally:
            current.leave()
            self.slot[Field.OPEN] -= 1

    def handle_request(self, listener: Any, request: Any, client: Any, address: Any) -> Any:
        with self.answering(client):
            return super().handle_request(listener, request, client, address)

    @contextmanager
    def answering(self, client: Any) -> Iterator[None]:  # noqa: ARG002 (gevent's looks at it)
        """Count a request of `client`."""
        if self.nr + 1 >= self.max_requests and self.end_by_requests():
            self.max_requests = self.nr + 1  # gunicorn ends it
        self.slot[Field.IN_FLIGHT] += 1
        current.leave()
        began = time.monotonic()
        token = object()
        self._begun[token] = began
        self._note_oldest()
        try:
            yield
        except BaseException:  # which is logged and answered outside
            self._end(began)
            raise
        else:
            self._end(began)
            current.leave()
        finally:
            del self._begun[token]
            self._note_oldest()
            self.slot[Field.IN_FLIGHT] -= 1
            self.slot[Field.REQUESTS] = self.nr

    def _note_oldest(self) -> None:
        self.slot[Field.OLDEST] = int(next(iter(self._begun.values()), 0.0) * 1e9)

    def _end(self, began: float) -> None:
        environ = current.environ()
        if environ is not None:
            self.observe(environ, environ[_RESPONSE], began)
