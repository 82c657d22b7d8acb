"""Threads that lead in turn, with a drain that answers every request and keeps every connection.

One thread leads: it polls, and reads, runs and answers what has come, all by itself. Only when it has been
inside one request for a few milliseconds, waiting or computing, does another thread take the lead.
So short requests are never passed between threads, and never fight for the interpreter's lock.

Whatever an application raises ends one request; no thread ends before the worker does.
"""

from __future__ import annotations

import os
import select
import socket
import ssl
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import datetime
from enum import Enum, auto
from functools import partial
from queue import SimpleQueue
from typing import Any

from gunicorn.config import Config
from gunicorn.glogging import Logger
from gunicorn.http import wsgi
from gunicorn.http.errors import NoMoreData
from gunicorn.http.message import Request

from flask_socketact import env
from flask_socketact.bridge import request_context
from flask_socketact.handover.mailbox import Mailbox
from flask_socketact.http import request_body
from flask_socketact.http.connection import Connection, NextRequest
from flask_socketact.http.response import Response
from flask_socketact.linux import socket_queues
from flask_socketact.linux.timer import Alarm
from flask_socketact.shared.scoreboard import Field
from flask_socketact.workers.base import HEARTBEAT, BaseWorker
from flask_socketact.workers.connection_loop import Loop
from flask_socketact.workers.drain import DRAIN_POLL, LINGER
from flask_socketact.workers.outcome import ApplicationError, status_of

#: How long the leader may be inside one request before another thread takes the lead, in seconds.
PATIENCE = 0.005
#: A mean over about so many requests.
SMOOTHING = 8


class Outcome(Enum):
    """What a connection needs after its turn."""

    WAIT = auto()  #: the rest of a head
    KEEP = auto()  #: the next request
    CLOSE = auto()


class Seat:
    """A thread that serves, and what it serves."""

    __slots__ = ("connection", "is_resting", "reported", "thread")

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.is_resting = True  #: waits until it is called to lead
        self.reported = False  #: its request has run longer than ``timeout``
        self.thread: threading.Thread


class ThreadWorker(BaseWorker):
    """A worker that serves with threads: ``-k flask_socketact.workers.thread.ThreadWorker``.

    ``threads`` is how many requests run at once; a client that is connected, but has not sent the
    whole head of a request, holds none. ``timeout`` (seconds, 0: none) is how long a request may run
    without a byte to or from its client. One that runs longer is reported with its stack,
    and the worker replaced; a client that neither sends nor takes anything for so long is cut off.
    """

    wsgi: Callable[..., Iterable[bytes]]

    @classmethod
    def check_config(cls, cfg: Config, log: Logger) -> None:
        """Called by the master.

        :raises SettingsError: the environment has a value that cannot be used.
        """
        env.header_timeout()
        if "h2" in cfg.http_protocols or cfg.http2_cleartext != "off":
            log.warning("HTTP/2 is not supported by this worker: clients are answered with HTTP/1.1")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Made after the fork:
        self.loop: Loop
        self._alarm: Alarm
        self._calls: SimpleQueue[None] = SimpleQueue()  # one for each time that a resting thread is to lead
        self._seats: list[Seat] = []
        self._resting = 0  # threads that wait for a call
        self._leader: Seat | None = None
        self._supervisor = Seat()  # leads when no thread can
        self._mean = 0.0  # seconds that a request takes
        self._begun = self._ended = 0  # turns of connections; the difference is in flight
        self._is_leaving = False  # the drain has begun
        self._drained = False  # nothing is left
        self._is_broken = False  # the loop cannot go on

    # The supervisor is gunicorn's main thread, which gets the signals.

    def load_wsgi(self) -> None:
        super().load_wsgi()
        refuse_patched_modules()

    def run(self) -> None:
        self.loop = Loop(self)
        self._alarm = Alarm(PATIENCE)
        self._start_threads()
        poll = select.poll()
        poll.register(self.PIPE[0], select.POLLIN)
        poll.register(self._alarm, select.POLLIN)
        self._next_beat_at = 0.0
        has_ended = False
        while not has_ended:
            try:
                self._watch(poll)
                has_ended = self._has_ended()
            except BaseException:  # noqa: BLE001 (the worker goes on, whatever it is)
                self.note_failure()

    def _has_ended(self) -> bool:
        is_idle = self._begun == self._ended
        return self._drained or (self._is_broken and is_idle) or self._is_overdue()

    def _watch(self, poll: select.poll) -> None:
        """Wait for a signal, an alarm or the next beat, and see to what is due."""
        if not self.alive:
            self._drain_without_threads()
        now = time.monotonic()
        if now >= self._next_beat_at or self.relayed.is_told_of_stop:
            self._next_beat_at = now + HEARTBEAT
            self._supervise(now)
        poll.poll(1000 * (self._next_beat_at - now))
        self._empty_pipe()
        self.reopen_files()
        self._relieve_leader()

    def close_in_child(self) -> None:
        super().close_in_child()
        if self._seats:  # not forked while the application was loaded
            self.loop.close_in_child()
            os.close(self._alarm.fileno())

    def _start_threads(self) -> None:
        self._resting = self.cfg.threads
        self._calls.put(None)
        for number in range(self.cfg.threads):
            seat = Seat()
            self._seats.append(seat)
            seat.thread = threading.Thread(
                target=self._serve_in_turn, args=(seat,), name=f"request-{number}", daemon=True
            )
            seat.thread.start()

    def _supervise(self, now: float) -> None:
        self.notify()
        self.relayed.has_master()
        self.beat()
        with self.loop.lock:
            self._call_if_none_leads()
        oldest = moved = 0.0
        for seat in self._seats:
            connection = seat.connection
            if connection is None:
                moved = now
                continue
            clock = connection.clock
            if clock.with_client:
                _look_at_client(connection, now)
            oldest = min(oldest or clock.began, clock.began)
            # The client's pace is not ours.
            moved = now if clock.with_client else max(moved, clock.moved)
            if self.cfg.timeout and now - clock.moved > self.cfg.timeout:
                self._end_wait(seat, connection)
        self.slot[Field.OLDEST] = int(oldest * 1e9)
        self.slot[Field.MOVED] = int(moved * 1e9)

    def _end_wait(self, seat: Seat, connection: Connection) -> None:
        """Act upon a request that nothing has moved for ``timeout`` seconds."""
        if connection.clock.with_client:
            self.log.info("A client neither sends nor takes anything for %s s: cut off", self.cfg.timeout)
            with suppress(OSError):  # it has gone by itself
                connection.sock.shutdown(socket.SHUT_RDWR)
        elif not seat.reported:
            seat.reported = True
            frame = sys._current_frames().get(seat.thread.ident or 0)
            stack = "".join(traceback.format_stack(frame)) if frame else ""
            replaced = not self.relayed.is_moved()
            self.log.critical(
                "A request runs longer than timeout = %s s%s (pid: %s). It is at:\n%s",
                self.cfg.timeout,
                ", so this worker is replaced" if replaced else "",
                os.getpid(),
                stack.rstrip(),
            )
            if replaced:
                self.alive = False

    def _relieve_leader(self) -> None:
        """Let another thread lead, if the leader has been inside one request for too long."""
        self._alarm.clear()
        with self.loop.lock:
            connection = self._leader.connection if self._leader else None
            if not self._resting:
                return
            if connection is None:
                if self.loop.ready:  # the leader is between two of them, and the next may be long
                    self._alarm.set()
                return
            if time.monotonic() - connection.clock.began >= PATIENCE:
                self._pass_lead(connection)
            else:
                self._alarm.set()

    def _is_overdue(self) -> bool:
        """Whether the drain has lasted longer than it may; begins it, if it is to begin."""
        if self.alive:
            return False
        if not self._is_leaving:
            self._is_leaving = True
            self.loop.wake()
            self.drain.announce()
        return time.monotonic() > self.drain.deadline

    def _wake_supervisor(self) -> None:
        with suppress(BlockingIOError):  # it has enough to read
            os.write(self.PIPE[1], b".")

    def _empty_pipe(self) -> None:
        with suppress(BlockingIOError):
            os.read(self.PIPE[0], 4096)

    # The threads that serve.

    def _serve_in_turn(self, seat: Seat) -> None:
        while not self._drained and not self._is_broken:
            try:
                self._calls.get()
                if self._begin_to_lead(seat):
                    self._lead(seat)
            except BaseException as error:  # noqa: BLE001 (the thread goes on, whatever it is)
                if self.is_child:
                    self.forks.end_child(error)
                self._recover(seat)
        self._wake_supervisor()

    def _begin_to_lead(self, seat: Seat) -> bool:
        """Lead, unless another thread does: a call may be meant for nobody any more."""
        with self.loop.lock:
            if self._leader is not None:
                return False
            self._leader = seat
            seat.is_resting = False
            self._resting -= 1
            return True

    def _rest(self, seat: Seat) -> None:
        if not seat.is_resting:
            seat.is_resting = True
            self._resting += 1

    def _recover(self, seat: Seat) -> None:
        """Go on after an unexpected error: close the connection that it came from, and let a thread lead.

        It may be none of ours: a library's time limit (PyThreadState_SetAsyncExc) can come when its view has returned.
        """
        self.log.exception("Unexpected error in the worker's loop")
        with self.loop.lock:
            connection, seat.connection = seat.connection, None
            if connection is not None:
                self._note_ended()
                self.loop.close(connection)
            cannot_go_on = self.fails_often()
            self._rest(seat)
            if self._leader is seat:
                self._leader = None
            if cannot_go_on:
                self._give_up()
            self._call_if_none_leads()

    def _call_if_none_leads(self) -> None:
        """See that a thread leads, if one can: a call may be lost with an error that comes just then."""
        if self._leader is None and self._resting:
            self._calls.put(None)

    def _give_up(self) -> None:
        """Leave when the requests in flight have ended: the loop cannot go on."""
        self.log.critical("The worker's loop cannot go on: no new requests, and the worker is replaced")
        self._is_broken = True
        self.alive = False
        self.slot.begin_drain()
        self.loop.stop_accepting()

    def _lead(self, seat: Seat) -> None:
        """Poll and serve, until another thread leads or nothing is left."""
        loop = self.loop
        while True:
            if not self.alive and self._drain():
                self._drained = True
                return
            loop.poll(HEARTBEAT if self.alive else DRAIN_POLL)
            if loop.ready:
                self._alarm.set()
            for _ in range(len(loop.ready)):
                if not self.alive and not self.carrier.has_begun:
                    break  # those that nothing has been read of go to the mailbox first
                connection = loop.next()
                if connection is not None and not self._serve(seat, connection):
                    return

    def _serve(self, seat: Seat, connection: Connection) -> bool:
        """Give `connection` its turn; return whether this thread leads afterwards."""
        had_begun = connection.has_begun
        connection.begin_turn()
        seat.connection = connection
        self._begun += 1
        self.slot[Field.IN_FLIGHT] = self._begun - self._ended
        if self._mean > PATIENCE and self._resting:
            with self.loop.lock:
                if self._leader is seat:  # else another thread has taken the lead already
                    self._pass_lead(connection)
        while True:
            outcome = self._take_turn(connection)
            with self.loop.lock:
                leads = self._leader is seat
                has_next = outcome is Outcome.KEEP and connection.next_request is NextRequest.UNPARSED
                if has_next and not leads and not self.carrier.is_carrying:
                    connection.clock.restart()
                    continue  # nobody but us could see it
                seat.connection = None
                seat.reported = False
                self._note_ended()
                try:
                    self._end_turn(connection, outcome, new_head=not had_begun)
                except Exception:  # noqa: BLE001 (whatever it is, it is this connection's alone)
                    self.loop.drop(connection)
                if not leads:
                    self._alarm.set()  # whoever leads may be inside a long request
                    leads = self._take_lead(seat)
                    if not leads:
                        self._rest(seat)
                return leads

    def _note_ended(self) -> None:
        self._ended += 1
        self.slot[Field.IN_FLIGHT] = self._begun - self._ended
        self.slot[Field.REQUESTS] = self.nr

    def _end_turn(self, connection: Connection, outcome: Outcome, *, new_head: bool) -> None:
        if outcome is Outcome.CLOSE:
            self.loop.close_gracefully(connection)
            return
        if outcome is Outcome.KEEP:
            connection.free_since = time.monotonic()
            seconds = connection.free_since - connection.clock.began
            self._mean += (min(seconds, SMOOTHING * PATIENCE) - self._mean) / SMOOTHING
            self.loop.set_deadline(connection, begun=connection.has_begun)
            if self.carrier.is_carrying:
                connection.end_turn()
                self.carrier.carry([connection])
                if connection not in self.loop.connections:
                    return
        elif connection.has_begun and new_head and connection.served:  # the first one's time began with the connection
            self.loop.set_deadline(connection, begun=True)
        self.loop.rejoin(connection)

    def _pass_lead(self, connection: Connection) -> None:
        """Let a thread lead that rests, while this one is busy with `connection`."""
        if self._resting:
            self.loop.release(connection)
            self._call_a_resting_thread()

    def _call_a_resting_thread(self) -> None:
        self._leader = None
        self._calls.put(None)

    def _take_lead(self, seat: Seat) -> bool:
        """Lead in the place of a thread that will be busy for long; return whether this one leads now."""
        connection = self._leader.connection if self._leader else None
        if connection is None:
            return False
        if self._mean <= PATIENCE and time.monotonic() - connection.clock.began < PATIENCE:
            return False
        self.loop.release(connection)
        self._leader = seat
        return True

    # The drain.

    def _drain(self) -> bool:
        """Bring the drain forward, and return whether nothing is left."""
        if not self.carrier.has_begun:
            self._begin_to_drain()
        if self.carrier.is_carrying:
            with self.loop.lock:
                self.carrier.carry(list(self.loop.connections))
        self.loop.limit_idle(time.monotonic() + LINGER)
        if self.loop.connections or self.loop.receives_mail:
            return False
        # When the service stops, whoever leaves last leaves nothing in the mailbox.
        return not (self.board.stopping and self.carrier.has_mail())

    def _begin_to_drain(self) -> None:
        self.slot.begin_drain()
        if self.carrier.is_superseded():
            self.loop.leave_sources()
        self.loop.stop_accepting()
        self.carrier.begin(self)

    def _drain_without_threads(self) -> None:
        """Bring the drain forward in the supervisor, while all threads are inside requests:
        others' connections need not wait until one of them is free."""
        with self.loop.lock:
            leader = self._leader
            if leader is None or leader.connection is None or self._resting:
                return
            self.loop.release(leader.connection)
            self._leader = self._supervisor
        self._drain()
        with self.loop.lock:
            self._leader = leader
            if self._resting:  # one has ended its request meanwhile, perhaps the leader
                self._call_a_resting_thread()

    def read_mailbox(self, box: Mailbox) -> None:
        self.loop.read_mailbox(box)

    def leave_mailbox(self, box: Mailbox) -> None:
        self.loop.leave_mailbox(box)

    def forget(self, connection: Connection) -> None:
        self.loop.forget(connection)

    # One turn of a connection. Who calls its hooks, logs what and answers which error is as in gunicorn's gthread.

    def _take_turn(self, connection: Connection) -> Outcome:
        request = None
        try:
            request = connection.read_request()
            if request is None:
                return Outcome.WAIT
            outcome = self._answer(connection, request)
            if self.is_child:
                self.forks.end_child(None)
        except BaseException as error:  # noqa: BLE001 (it ends its request alone)
            if self.is_child:
                self.forks.end_child(None if connection.broken else error)
            self._answer_error(connection, request, error)
            return Outcome.CLOSE
        else:
            return outcome
        finally:
            if connection.lent is not None:
                connection.lent.take_back()
                connection.lent = None
            request_context.leave()

    def _answer_error(self, connection: Connection, request: Request | None, error: BaseException) -> None:
        """Answer a request for which nothing has been sent, and that has ended with `error`, if it can be answered."""
        if isinstance(error, StopIteration | NoMoreData):
            self.log.debug("Closing connection. %s", error)
        elif not connection.broken:
            if isinstance(error, ssl.SSLError):  # of the application's own; gunicorn would take it for the client's
                error = ApplicationError(str(error))
            self.handle_error(request, connection.sock, connection.client, error)
        elif not isinstance(error, ssl.SSLError):
            self.log.debug("Ignoring %s", error)
        elif error.args[0] == ssl.SSL_ERROR_EOF:
            self.log.debug("ssl connection closed")
        else:
            self.handle_error(request, connection.sock, connection.client, error)

    def _answer(self, connection: Connection, request: Request) -> Outcome:
        """Run the application, and send its response."""
        response = None
        environ: dict[str, Any] = {}
        failure: BaseException | None = None
        try:
            self.loop.cfg.pre_request(self, request)
            began = datetime.now()
            response, environ = self._describe(connection, request)
            self._count()
            self._respond(request, response, environ, began)
        except BaseException as error:
            failure = error
            is_begun = response is not None and response.is_on_its_way
            if self.is_child or connection.broken or not is_begun or isinstance(error, StopIteration):
                raise
            # An error page in the middle of a response would be taken for a part of it.
            self.log.exception("Error handling request")
            return Outcome.CLOSE
        finally:
            if not self.is_child:
                self._settle(connection, request, response, environ, failure)
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
        return "HTTP_UPGRADE" in environ and connection.lent is not None and connection.lent.is_used

    def _respond(self, request: Request, response: Response, environ: dict[str, Any], began: datetime) -> None:
        body = self.wsgi(environ, response.start_response)
        if self.is_child:
            self.forks.end_child(None)
        try:
            response.send(body, environ["wsgi.file_wrapper"])
        finally:
            if response.is_on_its_way:  # otherwise an error page takes its place, and its line
                self.log.access(response, request, environ, datetime.now() - began)
            if hasattr(body, "close"):
                body.close()

    def _settle(
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
            is_clients = connection.broken or request_body.is_broken(request)
            status = status_of(response, failure, is_clients=is_clients)
            if status is None or status >= "5":
                self._count_error()
        self.observe(environ, status, connection.clock.began)
        try:
            self.loop.cfg.post_request(self, request, environ, response)
        except BaseException:
            self.log.exception("Exception in post_request hook")

    def _describe(self, connection: Connection, request: Request) -> tuple[Response, dict[str, Any]]:
        """Return the response of a request, which has not begun, and the environ that the application is to see."""
        response, environ = wsgi.create(
            request,
            connection,
            connection.client,
            connection.server,
            self.loop.cfg,
            Response,
            (connection, partial(self._ends, connection)),
        )
        environ["gunicorn.socket"] = connection.lend()
        environ["wsgi.multithread"] = True
        self.describe_request(environ, connection.listener, request)
        environ[request_context.FREE_SINCE] = connection.free_since
        if not connection.free_since:
            self.note_wait(connection.sock)
        response.environ = environ
        return response, environ

    def _count(self) -> None:
        self.nr += 1
        if self.nr >= self.max_requests and self.end_by_requests():
            self.alive = False
            self._wake_supervisor()

    def _count_error(self) -> None:
        with self.loop.lock:
            self.slot[Field.ERRORS] += 1

    def _ends(self, connection: Connection) -> bool:
        """Whether `connection` is to be closed after an answer that begins now."""
        cfg = self.loop.cfg
        if not self.alive:
            return not (connection.portable and self.carrier.may_carry() and cfg.keepalive)
        return not cfg.keepalive or len(self.loop.connections) > cfg.worker_connections


def _look_at_client(connection: Connection, now: float) -> None:
    """Note whether the client has sent or taken something, while a thread waits in one call to the kernel for more."""
    try:
        progress = socket_queues.progress(connection.sock)
    except (OSError, ValueError):  # it has just ended
        return
    if progress != connection.clock.progress:
        connection.clock.progress = progress
        connection.clock.moved = now


def refuse_patched_modules() -> None:
    """Refuse an application that has made threads into greenlets.

    :raises RuntimeError: it has, with gevent or eventlet.
    """
    for library, module in (("gevent", "gevent.monkey"), ("eventlet", "eventlet.patcher")):
        patcher = sys.modules.get(module)
        is_patched = getattr(patcher, "is_module_patched", None) or getattr(patcher, "is_monkey_patched", None)
        if is_patched and any(is_patched(name) for name in ("socket", "select", "thread", "threading")):
            raise RuntimeError(
                f"the application has called {library}'s monkey patching, which leaves this worker no threads: use "
                "worker_class = 'flask_socketact.workers.gevent.GeventWorker', or remove the call"
            )
