"""A worker with threads. Its drain serves every request and hands over every connection.

Its parts: the thread pool (leader.py), the connections (connection_loop.py), the cycle of a request (request_cycle.py),
and the supervisor: the main thread, here, which gets the signals and watches timeouts (supervisor.py).
"""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any

from gunicorn.config import Config
from gunicorn.glogging import Logger

from flask_socketact import env
from flask_socketact.handover.mailbox import Mailbox
from flask_socketact.http.connection import Connection
from flask_socketact.workers.base import BaseWorker
from flask_socketact.workers.connection_loop import Loop
from flask_socketact.workers.drain import LINGER
from flask_socketact.workers.leader import ThreadPool
from flask_socketact.workers.protocols import refuse_http2
from flask_socketact.workers.stand_in import StandIn
from flask_socketact.workers.supervisor import watch_requests, watch_streams


class ThreadWorker(BaseWorker):
    """A worker that serves with threads: ``-k flask_socketact.workers.thread.ThreadWorker``.

    ``threads`` is how many requests run at once; a connection whose request is incomplete occupies no thread.
    ``timeout`` (seconds, 0: none) is how long a request may run without a byte to or from its client. If one runs
    longer, its stack is logged and the worker is replaced. A client that neither sends nor reads anything for so long
    in the middle of a request is disconnected.
    """

    wsgi: Callable[..., Iterable[bytes]]

    @classmethod
    def check_config(cls, cfg: Config, log: Logger) -> None:  # noqa: ARG003 (gunicorn's)
        """Check the settings. Called in the master.

        :raises SettingsError: an environment variable has an invalid value, or HTTP/2 is asked for.
        """
        env.header_timeout()
        env.body_buffer()
        env.max_websockets()
        env.max_streams()
        refuse_http2(cfg)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._pool: ThreadPool | None = None  # created after the fork, as is:
        self.loop: Loop
        self._is_announced = False  # the drain, to applications

    def load_wsgi(self) -> None:
        super().load_wsgi()
        refuse_patched_modules()

    def run(self) -> None:
        self.loop = Loop(self)
        self._pool = pool = ThreadPool(self)
        stand_in = StandIn(self, pool)
        pool.start(self.cfg.threads)
        poll = select.poll()
        poll.register(self.PIPE[0], select.POLLIN)
        poll.register(pool.alarm, select.POLLIN)
        self._next_check = 0.0
        has_ended = False
        while not has_ended:
            try:
                self._supervise(pool, stand_in, poll)
                has_ended = self._has_ended(pool)
            except BaseException:  # noqa: BLE001 (no error ends the worker)
                self.note_failure()
        pool.upgrades.close_all()

    def _has_ended(self, pool: ThreadPool) -> bool:
        return pool.is_drained or (pool.is_broken and pool.are_idle) or self._is_overdue()

    def _supervise(self, pool: ThreadPool, stand_in: StandIn, poll: select.poll) -> None:
        """Do what is due, and wait for a signal, the alarm or the next heartbeat."""
        pause = stand_in.lead_if_all_are_busy()
        now = time.monotonic()
        if now >= self._next_check or self.relayed.stop_signaled:
            self._next_check = now + self.heartbeat
            self.notify()
            self.relayed.check_master()
            self.beat()
            pool.ensure_leader()
            watch_requests(self, list(pool.threads), now)
            watch_streams(self, list(pool.streams.threads), now)
            pool.count_in_flight()
        until = self._next_check if self.alive else min(self._next_check, self.drain.deadline)
        poll.poll(1000 * max(0.0, min(until - now, pause)))
        self._empty_pipe()
        self.reopen_files()
        pool.promote_if_leader_is_busy()

    def close_in_child(self) -> None:
        super().close_in_child()
        if self._pool is not None:  # None: forked while the application was loading
            self.loop.close_in_child()
            os.close(self._pool.alarm.fileno())

    def begin_stream(self) -> bool:
        return self._pool is None or self._pool.begin_stream()

    def _is_overdue(self) -> bool:
        """Return whether the drain time has expired. Begin the drain if it is due."""
        if self.alive:
            return False
        if not self._is_announced:
            self.loop.wake()
            if self.carrier.has_begun or self._pool is None or self._pool.is_broken:
                self._is_announced = True
                self.drain.announce()  # now clients that connect again get another worker
        return time.monotonic() > self.drain.deadline

    def wake_supervisor(self) -> None:
        """Make the supervisor do what is due."""
        with suppress(BlockingIOError):  # full: it will wake anyway
            os.write(self.PIPE[1], b".")

    def _empty_pipe(self) -> None:
        with suppress(BlockingIOError):
            os.read(self.PIPE[0], 4096)

    def give_up(self) -> None:
        """Drain without the loop, which has failed: finish requests in flight only."""
        self.log.critical("The worker's loop has failed too often: it finishes its requests, and is replaced")
        self.alive = False
        self.slot.begin_drain()
        self.loop.acceptor.stop_accepting()

    def continue_drain(self) -> bool:
        """Continue the drain; return whether it is complete."""
        if not self.carrier.has_begun:
            self._begin_to_drain()
        if self.carrier.is_carrying:
            with self.loop.lock:
                self.carrier.carry(list(self.loop.connections))
        self.loop.close_idle_by(time.monotonic() + LINGER)
        if self._pool is not None:
            self._pool.upgrades.end_unanswered()
        if self.loop.connections or self.loop.acceptor.receives_mail:
            return False
        # In a stop the last worker must leave nothing in the mailbox: systemd would start the service again.
        return not (self.board.stopping and self.carrier.has_mail())

    def _begin_to_drain(self) -> None:
        self.slot.begin_drain()
        if self.carrier.is_superseded():
            self.loop.acceptor.unwatch_sources()
        self.loop.acceptor.stop_accepting()
        self.carrier.begin()
        self.wake_supervisor()

    def read_mailbox(self, box: Mailbox) -> None:
        self.loop.acceptor.read_mailbox(box)

    def leave_mailbox(self, box: Mailbox) -> None:
        self.loop.acceptor.leave_mailbox(box)

    def close_copy(self, connection: Connection) -> None:
        self.loop.close_copy(connection)


def refuse_patched_modules() -> None:
    """Reject an application that has replaced threads with greenlets.

    :raises RuntimeError: gevent or eventlet has patched the standard library.
    """
    for library, module in (("gevent", "gevent.monkey"), ("eventlet", "eventlet.patcher")):
        patcher = sys.modules.get(module)
        is_patched = getattr(patcher, "is_module_patched", None) or getattr(patcher, "is_monkey_patched", None)
        if is_patched and any(is_patched(name) for name in ("socket", "select", "thread", "threading")):
            raise RuntimeError(
                f"the application uses monkey patching of {library}, which replaces this worker's threads: use "
                "worker_class = 'flask_socketact.workers.gevent.GeventWorker', or remove the call"
            )
