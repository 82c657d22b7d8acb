"""Threads that lead in turn, with a drain that answers every request and keeps every connection.

One thread leads: it polls, and reads, runs and answers what has come, all by itself. Only when it has been
inside one request for a few milliseconds, waiting or computing, does another thread take the lead.
So short requests are never passed between threads, and never fight for the interpreter's lock.
"""

from __future__ import annotations

import errno
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

from flask_socketact import current
from flask_socketact.alarm import Alarm
from flask_socketact.connection import Connection
from flask_socketact.errors import MailboxError
from flask_socketact.response import Response
from flask_socketact.scoreboard import Field
from flask_socketact.workers.lifecycle import DRAIN_POLL, HEARTBEAT, LINGER, Lifecycle
from flask_socketact.workers.loop import Loop, header_timeout

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

    __slots__ = ("connection", "reported", "thread")

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.reported = False  #: its request has run longer than ``timeout``
        self.thread: threading.Thread


class ThreadWorker(Lifecycle):
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
        header_timeout()
        if "h2" in cfg.http_protocols or cfg.http2_cleartext != "off":
            log.warning("HTTP/2 is not supported by this worker: clients are answered with HTTP/1.1")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # Made after the fork:
        self.loop: Loop
        self._alarm: Alarm
        self._baton: SimpleQueue[None] = SimpleQueue()  # who takes it, leads
        self._seats: list[Seat] = []
        self._resting = 0  # threads that wait for the baton
        self._leader: Seat | None = None
        self._supervisor = Seat()  # leads when no thread can
        self._mean = 0.0  # seconds that a request takes
        self._begun = self._ended = 0  # turns of connections; the difference is in flight
        self._drain_deadline: float | None = None
        self._draining = False  # the leader has begun the drain
        self._carrying = False  # ... and idle connections go to the mailbox
        self._drained = False

    # The supervisor is gunicorn's main thread, which gets the signals.

    def run(self) -> None:
        self.loop = Loop(self)
        self._alarm = Alarm(PATIENCE)
        self._start_threads()
        poll = select.poll()
        poll.register(self.PIPE[0], select.POLLIN)
        poll.register(self._alarm, select.POLLIN)
        next_beat = 0.0
        while not self._drained and not self._is_overdue():
            if not self.alive:
                self._drain_without_threads()
            now = time.monotonic()
            if now >= next_beat:
                next_beat = now + HEARTBEAT
                self._supervise(now)
            poll.poll(1000 * (next_beat - now))
            self._empty_pipe()
            self.reopen_files()
            self._relieve_leader()

    def _start_threads(self) -> None:
        self._resting = self.cfg.threads - 1
        self._baton.put(None)
        for number in range(self.cfg.threads):
            seat = Seat()
            self._seats.append(seat)
            seat.thread = threading.Thread(
                target=self._serve_in_turn, args=(seat,), name=f"request-{number}", daemon=True
            )
            seat.thread.start()

    def _supervise(self, now: float) -> None:
        self.notify()
        self.is_parent_alive()
        self.beat()
        oldest = moved = 0.0
        for seat in self._seats:
            connection = seat.connection
            if connection is None:
                moved = now
                continue
            clock = connection.clock
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
            replaced = not self.is_relayed()
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
            if connection is None or not self._resting:
                return
            if time.monotonic() - connection.clock.began >= PATIENCE:
                self._pass_lead(connection)
            else:
                self._alarm.set()

    def _is_overdue(self) -> bool:
        """Whether the drain has lasted longer than it may; begins it, if it is to begin."""
        if self.alive:
            return False
        if self._drain_deadline is None:
            self._drain_deadline = time.monotonic() + self.cfg.graceful_timeout
            self.loop.wake()
            self.begin_drain()
        return time.monotonic() > self._drain_deadline

    def _wake_supervisor(self) -> None:
        with suppress(BlockingIOError):  # it has enough to read
            os.write(self.PIPE[1], b".")

    def _empty_pipe(self) -> None:
        with suppress(BlockingIOError):
            os.read(self.PIPE[0], 4096)

    # The threads that serve.

    def _serve_in_turn(self, seat: Seat) -> None:
        try:
            while not self._drained:
                self._baton.get()
                self._lead(seat)
        except Exception:
            self.log.exception("The worker's loop has failed")
            self.alive = False
            self._drained = True
        self._wake_supervisor()

    def _lead(self, seat: Seat) -> None:
        """Poll and serve, until another thread leads or nothing is left."""
        loop = self.loop
        with loop.lock:
            self._leader = seat
        while True:
            if not self.alive and self._drain():
                self._drained = True
                return
            loop.poll(HEARTBEAT if self.alive else DRAIN_POLL)
            if loop.ready:
                self._alarm.set()
            for _ in range(len(loop.ready)):
                connection = loop.next()
                if connection is not None and not self._serve(seat, connection):
                    return

    def _serve(self, seat: Seat, connection: Connection) -> bool:
        """Give `connection` its turn; return whether this thread leads afterwards."""
        partial = connection.partial
        connection.busy = True
        connection.clock.restart()
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
                if outcome is Outcome.KEEP and connection.buffered and not leads:
                    connection.clock.restart()
                    continue  # nobody but us could see it
                seat.connection = None
                seat.reported = False
                self._ended += 1
                self.slot[Field.IN_FLIGHT] = self._begun - self._ended
                self.slot[Field.REQUESTS] = self.nr
                self._end_turn(connection, outcome, new_head=not partial)
                if not leads:
                    self._alarm.set()  # whoever leads may be inside a long request
                    leads = self._take_lead(seat)
                    self._resting += not leads
                return leads

    def _end_turn(self, connection: Connection, outcome: Outcome, *, new_head: bool) -> None:
        if outcome is Outcome.CLOSE:
            self.loop.close_gracefully(connection)
            return
        if outcome is Outcome.KEEP:
            connection.free_since = time.monotonic()
            seconds = connection.free_since - connection.clock.began
            self._mean += (min(seconds, SMOOTHING * PATIENCE) - self._mean) / SMOOTHING
            self.loop.set_deadline(connection, begun=connection.buffered)
        elif connection.partial and new_head:
            self.loop.set_deadline(connection, begun=True)
        self.loop.rejoin(connection)

    def _pass_lead(self, connection: Connection) -> None:
        """Let a thread lead that rests, while this one is busy with `connection`."""
        if self._resting:
            self.loop.release(connection)
            self._call_a_resting_thread()

    def _call_a_resting_thread(self) -> None:
        self._resting -= 1
        self._leader = None
        self._baton.put(None)

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
        if not self._draining:
            self._carrying = self._may_carry()
            self._draining = True
            self.slot.begin_drain()
            self.loop.stop_accepting()
            if self._carrying and self.mailbox:
                self.loop.leave_mailbox(self.mailbox)
        if self._carrying and not self._carry():
            self._carrying = False
            self.log.warning("Idle connections are closed from now on, not carried")
            if self.mailbox and self.board.stopping:  # what we have sent may have no other reader
                self.loop.read_mailbox(self.mailbox)
        self.loop.limit_idle(time.monotonic() + LINGER)
        if self.loop.connections or self.loop.receives_mail:
            return False
        # When the service stops, whoever leaves last leaves nothing in the mailbox.
        return not (self.board.stopping and self.has_mail())

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

    def has_mail(self) -> bool:
        return self.mailbox is not None and self.mailbox.has_mail()

    def _carry(self) -> bool:
        """Send what is idle to the mailbox; return whether to go on with it."""
        if self.mailbox is None or not self._may_carry():
            return False
        siblings = sum(1 for sibling in self.board.taken() if not sibling[Field.DRAINING])
        try:
            self.loop.carry(self.mailbox, siblings)
        except MailboxError as error:
            self.log.warning("Mailbox: %s", error)
            return False
        return True

    def _may_carry(self) -> bool:
        """Whether somebody will read the mailbox. When nobody does, it would start the service again."""
        if self._draining and not self._carrying:
            return False
        return self.mailbox is not None and self.has_successor()

    # One turn of a connection. Who calls its hooks, logs what and answers which error is as in gunicorn's gthread.

    def _take_turn(self, connection: Connection) -> Outcome:
        request = None
        try:
            request = connection.read_request()
            if request is None:
                return Outcome.WAIT
            return self._answer(connection, request)
        except (StopIteration, NoMoreData) as error:
            self.log.debug("Closing connection. %s", error)
        except ssl.SSLError as error:
            if error.args[0] == ssl.SSL_ERROR_EOF:
                self.log.debug("ssl connection closed")
            else:
                self.handle_error(request, connection.sock, connection.client, error)
        except (BrokenPipeError, ConnectionError) as error:
            self.log.debug("Ignoring %s", error)
        except OSError as error:
            if error.errno != errno.ENOTCONN:
                self.log.exception("Socket error processing request.")
        except (Exception, SystemExit) as error:  # noqa: BLE001 (a view that fails, or leaves, ends its request alone)
            self.handle_error(request, connection.sock, connection.client, error)
        finally:
            current.leave()
        return Outcome.CLOSE

    def _answer(self, connection: Connection, request: Request) -> Outcome:
        """Run the application, and send its answer."""
        cfg = self.loop.cfg
        response = None
        failed = False
        environ: dict[str, Any] = {}
        try:
            cfg.pre_request(self, request)
            began = datetime.now()
            response, environ = self._describe(connection, request)
            self._count()
            body = self.wsgi(environ, response.start_response)
            try:
                response.send(body, environ["wsgi.file_wrapper"])
            finally:
                self.log.access(response, request, environ, datetime.now() - began)
                if hasattr(body, "close"):
                    body.close()
        except OSError:
            raise
        except (Exception, SystemExit):
            failed = True
            if response is None or not response.headers_sent:
                raise
            # An error page in the middle of an answer would be taken for a part of it.
            self.log.exception("Error handling request")
            return Outcome.CLOSE
        finally:
            if failed or (response is not None and (response.status or "") >= "5"):
                self._count_error()
            self.observe(environ, response, connection.clock.began)
            try:
                cfg.post_request(self, request, environ, response)
            except Exception:
                self.log.exception("Exception in post_request hook")
        if response.should_close() or not connection.finish_request(request):
            return Outcome.CLOSE
        return Outcome.KEEP

    def _describe(self, connection: Connection, request: Request) -> tuple[Response, dict[str, Any]]:
        """Return the response of a request, which has not begun, and the environ that the application is to see."""
        response, environ = wsgi.create(
            request,
            connection.sock,
            connection.client,
            connection.server,
            self.loop.cfg,
            Response,
            (connection, partial(self._ends, connection)),
        )
        environ["wsgi.multithread"] = True
        self.describe_request(environ, connection.listener, request)
        environ[current.FREE_SINCE] = connection.free_since
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
            return not (connection.portable and self._may_carry() and cfg.keepalive)
        return not cfg.keepalive or len(self.loop.connections) > cfg.worker_connections
