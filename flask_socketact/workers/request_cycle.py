"""A request's way in the thread worker: read, run, respond, finish.

Who calls which hook, logs what and answers which error is as in gunicorn's gthread. Whatever an application raises
ends one request.
"""

from __future__ import annotations

import ssl
from datetime import datetime
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING, Any

from gunicorn.http import wsgi
from gunicorn.http.errors import NoMoreData
from gunicorn.http.message import Request

from flask_socketact.bridge import keys, request_context
from flask_socketact.errors import ApplicationError
from flask_socketact.http import request_body
from flask_socketact.http.connection import Connection
from flask_socketact.http.response import Response
from flask_socketact.shared.scoreboard import Field
from flask_socketact.workers.outcome import status_of

if TYPE_CHECKING:
    from flask_socketact.workers.thread import ThreadWorker


class Outcome(Enum):
    """What a connection needs after its turn."""

    WAIT = auto()  #: the rest of a head
    KEEP = auto()  #: the next request
    CLOSE = auto()


class RequestCycle:
    """Run by all threads of a worker at once: what it knows of a request is the connection's, or a local of its own."""

    def __init__(self, worker: ThreadWorker) -> None:
        """Take the worker, whose loop is there."""
        self._worker = worker
        self._loop = worker.loop
        self._cfg = worker.loop.cfg
        self.log = worker.log

    def take_turn(self, connection: Connection) -> Outcome:
        """Read a request, if its head has come, and answer it."""
        request = None
        try:
            request = connection.read_request()
            if request is None:
                return Outcome.WAIT
            outcome = self._serve(connection, request)
            if self._worker.is_child:
                self._worker.forks.end_child(None)
        except BaseException as error:  # noqa: BLE001 (it ends its request alone)
            if self._worker.is_child:
                self._worker.forks.end_child(None if connection.broken else error)
            self._respond_to_error(connection, request, error)
            return Outcome.CLOSE
        else:
            return outcome
        finally:
            if connection.lent_socket is not None:
                connection.lent_socket.take_back()
                connection.lent_socket = None
            request_context.leave()

    def _respond_to_error(self, connection: Connection, request: Request | None, error: BaseException) -> None:
        """Answer a request for which nothing has been sent, and that has ended with `error`, if it can be answered."""
        if isinstance(error, StopIteration | NoMoreData):
            self.log.debug("Closing connection. %s", error)
        elif not connection.broken:
            if isinstance(error, ssl.SSLError):  # of the application's own; gunicorn would take it for the client's
                error = ApplicationError(str(error))
            self._worker.handle_error(request, connection.sock, connection.client, error)
        elif not isinstance(error, ssl.SSLError):
            self.log.debug("Ignoring %s", error)
        elif error.args[0] == ssl.SSL_ERROR_EOF:
            self.log.debug("ssl connection closed")
        else:
            self._worker.handle_error(request, connection.sock, connection.client, error)

    def _serve(self, connection: Connection, request: Request) -> Outcome:
        """Run the application, and send its response."""
        response = None
        environ: dict[str, Any] = {}
        failure: BaseException | None = None
        try:
            self._cfg.pre_request(self._worker, request)
            began = datetime.now()
            response, environ = self._create_response(connection, request)
            self._count_request()
            self._respond(request, response, environ, began)
        except BaseException as error:
            failure = error
            is_begun = response is not None and response.has_started
            if self._worker.is_child or connection.broken or not is_begun or isinstance(error, StopIteration):
                raise
            # An error page in the middle of a response would be taken for a part of it.
            self.log.exception("Error handling request")
            return Outcome.CLOSE
        finally:
            if not self._worker.is_child:
                self._finish(connection, request, response, environ, failure)
            failure = (
                None  # it refers to this frame, and the frame to the body: nothing waits for the garbage collector
            )
        if self._has_upgraded(connection, environ) or response.should_close():
            return Outcome.CLOSE
        if not connection.finish_request(request):
            return Outcome.CLOSE
        return Outcome.KEEP

    @staticmethod
    def _has_upgraded(connection: Connection, environ: dict[str, Any]) -> bool:
        """Whether the application has spoken another protocol on the connection, and has failed then: a response has
        been sent, but nothing on it is HTTP any more."""
        return "HTTP_UPGRADE" in environ and connection.lent_socket is not None and connection.lent_socket.is_used

    def _respond(self, request: Request, response: Response, environ: dict[str, Any], began: datetime) -> None:
        body = self._worker.wsgi(environ, response.start_response)
        if self._worker.is_child:
            self._worker.forks.end_child(None)
        try:
            response.send(body, environ["wsgi.file_wrapper"])
        finally:
            if response.has_started:  # otherwise an error page takes its place, and its line
                self.log.access(response, request, environ, datetime.now() - began)
            if hasattr(body, "close"):
                body.close()

    def _finish(
        self,
        connection: Connection,
        request: Request,
        response: Response | None,
        environ: dict[str, Any],
        failure: BaseException | None,
    ) -> None:
        """Count a request that has ended, and tell the hooks."""
        status = response.status if response is not None else None
        if failure is not None or status is None or status >= "5":
            is_client_error = connection.broken or request_body.is_broken(request)
            status = status_of(response, failure, is_client_error=is_client_error)
            if status is None or status >= "5":
                self._count_error()
        self._worker.observe(environ, status, connection.clock.began)
        try:
            self._cfg.post_request(self._worker, request, environ, response)
        except BaseException:
            self.log.exception("Exception in post_request hook")

    def _create_response(self, connection: Connection, request: Request) -> tuple[Response, dict[str, Any]]:
        """Return the response of a request, which has not begun, and the environ that the application is to see."""
        response, environ = wsgi.create(
            request,
            connection,
            connection.client,
            connection.server,
            self._cfg,
            Response,
            (connection, partial(self._must_close, connection)),
        )
        environ["gunicorn.socket"] = connection.lend_socket()
        environ["wsgi.multithread"] = True
        self._worker.describe_request(environ, connection.listener, request)
        environ[keys.FREE_SINCE] = connection.free_since
        if not connection.free_since:
            self._worker.note_wait(connection.sock)
        response.environ = environ
        return response, environ

    def _count_request(self) -> None:
        worker = self._worker
        worker.nr += 1
        if worker.nr >= worker.max_requests and worker.end_at_max_requests():
            worker.alive = False
            worker.wake_supervisor()

    def _count_error(self) -> None:
        with self._loop.lock:
            self._worker.slot[Field.ERRORS] += 1

    def _must_close(self, connection: Connection) -> bool:
        """Whether `connection` is to be closed after an answer that begins now."""
        cfg, worker = self._cfg, self._worker
        if not worker.alive:
            return not (connection.is_portable and worker.carrier.can_carry() and cfg.keepalive)
        return not cfg.keepalive or len(self._loop.connections) > cfg.worker_connections
