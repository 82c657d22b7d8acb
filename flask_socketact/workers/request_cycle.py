"""The cycle of a request in the thread worker: read, run the application, respond, finish.

Hooks, log lines and error responses are those of gunicorn's gthread. Whatever an application raises ends only its own
request.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING, Any

from gunicorn import util
from gunicorn.config import PostRequest, PreRequest
from gunicorn.glogging import Logger as GunicornLogger
from gunicorn.http import wsgi
from gunicorn.http.errors import NoMoreData
from gunicorn.http.message import Request

from flask_socketact.bridge import keys, request_context
from flask_socketact.errors import ApplicationError
from flask_socketact.http import request_body
from flask_socketact.http.client_socket import ClientSocket, TLSClientSocket
from flask_socketact.http.connection import Connection
from flask_socketact.http.environ import base_environ, plain_environ
from flask_socketact.http.plain import PlainRequest
from flask_socketact.http.response import Response
from flask_socketact.http.states import NextRequest
from flask_socketact.shared.slot import Field
from flask_socketact.workers.lasting import is_event_stream
from flask_socketact.workers.request_status import SWITCHED, status_of
from flask_socketact.workers.upgrades import Upgrades, asks_for_upgrade

if TYPE_CHECKING:
    from flask_socketact.workers.thread import ThreadWorker


class Outcome(Enum):
    """What to do with a connection after its turn."""

    WAIT = auto()  #: wait for the rest of the headers
    KEEP = auto()  #: wait for the next request
    CLOSE = auto()


class RequestCycle:
    """Serves requests. All threads of a worker share one object, so it has no state of a request."""

    def __init__(self, worker: ThreadWorker, upgrades: Upgrades, begin_upgrade: Callable[[Connection], None]) -> None:
        """`worker` has its loop already. `begin_upgrade` is called when the application first uses the socket."""
        self._upgrades = upgrades
        self._begin_upgrade = begin_upgrade
        self._worker = worker
        self._loop = worker.loop
        self._cfg = worker.loop.cfg
        self.log = worker.log
        self._base_environ = base_environ(self._cfg)
        # gunicorn's own hooks: one logs at level debug, the other does nothing.
        self._only_logs = self._cfg.pre_request is PreRequest.default and type(self.log).debug is GunicornLogger.debug
        self._has_post_request = self._cfg.post_request is not PostRequest.default
        self._is_enabled_for = logging.getLogger("gunicorn.error").isEnabledFor

    def take_turn(self, connection: Connection) -> Outcome:
        """Read a request and serve it, if its headers are complete."""
        request = None
        try:
            request = connection.read_request()
            if request is None:
                return Outcome.WAIT
            outcome = self._serve(connection, request)
            if self._worker.is_child:
                self._worker.fork_hooks.end_child(None)
        except BaseException as error:  # noqa: BLE001 (any error ends only this request)
            if self._worker.is_child:
                self._worker.fork_hooks.end_child(None if connection.broken else error)
            self._respond_to_error(connection, request, error)
            return Outcome.CLOSE
        else:
            return outcome
        finally:
            if connection.lent_socket is not None:
                self._take_back(connection.lent_socket)
                connection.lent_socket = None
            request_context.leave()

    def end_turn(self, connection: Connection, outcome: Outcome, *, is_first_turn: bool) -> None:
        """Return `connection` to the loop, or close it. Called with the loop's lock."""
        if connection.unsent is not None:
            self._loop.send_rest(connection, closes=outcome is Outcome.CLOSE)
            return
        if outcome is Outcome.CLOSE:
            self._loop.close_gracefully(connection)
            return
        if outcome is Outcome.KEEP:
            connection.free_since = time.monotonic()
            self._loop.set_deadline(connection, begun=connection.has_next_request)
            if self._worker.carrier.is_carrying:
                connection.end_turn()
                self._worker.carrier.carry([connection])
                if connection not in self._loop.connections:
                    return
        elif connection.next_request is NextRequest.BODY or (
            connection.has_next_request and is_first_turn and connection.served
        ):
            self._loop.set_deadline(connection, begun=connection.has_next_request)
        self._loop.rejoin(connection)

    def _respond_to_error(self, connection: Connection, request: Request | None, error: BaseException) -> None:
        """Send an error page for a request that raised `error` before anything was sent, if the connection works."""
        if isinstance(error, StopIteration | NoMoreData):
            self.log.debug("Closing connection. %s", error)
        elif not connection.broken:
            if isinstance(error, ssl.SSLError):  # the application's; gunicorn would take it for the client's
                error = ApplicationError(str(error))
            self._worker.handle_error(request, connection.sock, connection.client, error)
        elif not isinstance(error, ssl.SSLError):
            self.log.debug("Ignoring %s", error)
        elif error.args[0] == ssl.SSL_ERROR_EOF:
            self.log.debug("ssl connection closed")
        else:
            self._worker.handle_error(request, connection.sock, connection.client, error)

    def _take_back(self, lent_socket: ClientSocket | TLSClientSocket) -> None:
        """End the application's use of the socket with its request."""
        if lent_socket.is_used:
            lent_socket.take_back(self._worker.drain.close_status)
        elif lent_socket.on_use is not None:
            lent_socket.on_use = None
            self._upgrades.release()

    def _serve(self, connection: Connection, request: Request) -> Outcome:
        """Run the application, and send its response."""
        response = None
        environ: dict[str, Any] = {}
        failure: BaseException | None = None
        try:
            if not self._only_logs or self._is_enabled_for(logging.DEBUG):
                self._cfg.pre_request(self._worker, request)
            began = datetime.now()
            response, environ = self._create_response(connection, request)
            if response.may_upgrade and asks_for_upgrade(request) and not self._admit_upgrade(connection, response):
                return Outcome.CLOSE
            self._count_request()
            self._respond(connection, request, response, environ, began)
        except BaseException as error:
            if response and self._has_upgraded(connection, response) and not self._worker.is_child:
                response.status = SWITCHED
                if not isinstance(error, StopIteration):  # how flask-sock ends
                    self.log.exception("Error in a WebSocket")
                return Outcome.CLOSE
            failure = error
            is_begun = response is not None and response.has_started
            if self._worker.is_child or connection.broken or not is_begun or isinstance(error, StopIteration):
                raise
            # The client would read an error page now as a part of the response.
            self.log.exception("Error handling request")
            return Outcome.CLOSE
        finally:
            if not self._worker.is_child:
                self._finish(connection, request, response, environ, failure)
            failure = None  # break the reference cycle: error, this frame, body
        if self._has_upgraded(connection, response) or response.should_close():
            return Outcome.CLOSE
        if not connection.finish_request(request):
            return Outcome.CLOSE
        return Outcome.KEEP

    @staticmethod
    def _has_upgraded(connection: Connection, response: Response) -> bool:
        """Return whether the application has used the socket for another protocol.

        A normal response then means that it has failed, and what follows on the connection is not HTTP.
        """
        return response.may_upgrade and connection.lent_socket is not None and connection.lent_socket.is_used

    def _respond(
        self, connection: Connection, request: Request, response: Response, environ: dict[str, Any], began: datetime
    ) -> None:
        body = self._worker.wsgi(environ, response.start_response)
        if self._worker.is_child:
            self._worker.fork_hooks.end_child(None)
        try:
            if self._has_upgraded(connection, response):
                response.status = SWITCHED  # whatever the application returns now cannot be sent
                return
            is_stream = response.response_length is None and is_event_stream(response.headers)
            if is_stream and not self._worker.begin_stream():
                response.status = "503 Service Unavailable"
                response.force_close()
                _refuse(connection, "too many streams")
                return
            response.send(body, environ["wsgi.file_wrapper"])
        finally:
            if response.has_started:  # otherwise an error page replaces it, also in the access log
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
        """Count a finished request, and call the hooks."""
        status = response.status if response is not None else None
        if failure is not None or status is None or status >= "5":
            is_client_error = connection.broken or request_body.is_broken(request)
            status = status_of(response, failure, is_client_error=is_client_error)
            if status is None or status >= "5":
                self._count_error()
        self._worker.observe(environ, status, connection.clock.began)
        if self._has_post_request:
            try:
                self._cfg.post_request(self._worker, request, environ, response)
            except BaseException:
                self.log.exception("Exception in post_request hook")

    def _create_response(self, connection: Connection, request: Request) -> tuple[Response, dict[str, Any]]:
        """Return the response object for a request, and the environ for the application."""
        must_close = partial(self._must_close, connection, request)
        if self._base_environ is not None and isinstance(request, PlainRequest):
            response = Response(request, connection, self._cfg, must_close)
            environ = plain_environ(self._base_environ, connection, request, response)
        else:
            response, environ = wsgi.create(
                request, connection, connection.client, connection.server, self._cfg, Response, (must_close,)
            )
            environ["wsgi.multithread"] = True
        environ["gunicorn.socket"] = connection.lend_socket()
        self._worker.describe_request(environ, connection.listener, request)
        environ[keys.FREE_SINCE] = connection.free_since
        if not connection.free_since:
            self._worker.note_wait(connection.sock)
        response.may_upgrade = "HTTP_UPGRADE" in environ  # the application may remove it
        response.environ = environ
        response.log = self.log
        return response, environ

    def _admit_upgrade(self, connection: Connection, response: Response) -> bool:
        """Return whether there is room for one more connection with another protocol; respond with 503 otherwise."""
        lent_socket = connection.lent_socket
        if lent_socket is not None and self._upgrades.reserve():
            lent_socket.on_use = partial(self._begin_upgrade, connection)
            return True
        response.status = "503 Service Unavailable"
        _refuse(connection, "too many WebSockets")
        return False

    def _count_request(self) -> None:
        worker = self._worker
        worker.nr += 1
        if worker.nr >= worker.max_requests and worker.end_at_max_requests():
            worker.alive = False
            worker.wake_supervisor()

    def _count_error(self) -> None:
        with self._loop.lock:
            self._worker.slot[Field.ERRORS] += 1

    def _must_close(self, connection: Connection, request: Request) -> bool:
        """Return whether a response that starts now is the last of `connection`."""
        cfg, worker = self._cfg, self._worker
        if request_body.is_broken(request):
            return True
        if not worker.alive:
            return not (connection.is_portable and worker.carrier.can_carry() and cfg.keepalive)
        return not cfg.keepalive or len(self._loop.connections) > cfg.worker_connections


def _refuse(connection: Connection, reason: str) -> None:
    with suppress(OSError):  # the client has disconnected
        util.write_error(connection.sock, 503, "Service Unavailable", reason)
