"""The drain of a worker: it accepts nothing new, finishes its work, and exits, at the latest after the drain time."""

from __future__ import annotations

import _thread
import atexit
import math
import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from flask_socketact.bridge import drain_calls, holds, server_info
from flask_socketact.handover.steps import Step, reached
from flask_socketact.http.websocket import GOING_AWAY, NORMAL_CLOSURE, SERVICE_RESTART
from flask_socketact.shared.slot import Field
from flask_socketact.systemd import message_ids

if TYPE_CHECKING:
    from flask_socketact.workers.base import BaseWorker

#: How often a draining worker checks what is left, in seconds.
DRAIN_POLL = 0.05
#: How long an idle connection stays open in a drain: its client may just have sent a request. Seconds.
LINGER = 2.0
#: A worker that is still running so long after the drain time ends its process, whatever blocks it. Seconds.
OVERDUE_GRACE = 1.0
#: Workers exit one after another, so long apart, after the drain: Python's cleanup takes some 10 ms of a CPU, which the
#: new workers need just then, as they have got the connections. Seconds.
EXIT_INTERVAL = 0.1
#: After so many intervals workers exit at the same time again.
EXIT_TURNS = 5

#: The unpatched functions: ending a worker must not depend on gevent's loop.
_start_thread = _thread.start_new_thread
_allocate_lock = _thread.allocate_lock
_sleep = time.sleep


class Drain:
    """The drain of one worker. The drain time is gunicorn's ``graceful_timeout``."""

    def __init__(self, worker: BaseWorker) -> None:
        self._worker = worker
        self.began: float | None = None  #: CLOCK_MONOTONIC, seconds; None: not yet
        self._is_announced = False  # DRAIN_BEGUN was sent
        self._is_finished = False
        # Held by the thread that ends the process, once it runs: one that was started without memory may never run.
        self._limit = _allocate_lock()

    @property
    def deadline(self) -> float:
        """When the drain time expires: CLOCK_MONOTONIC, seconds."""
        return math.inf if self.began is None else self.began + self._drain_time

    @property
    def _drain_time(self) -> float:
        return float(self._worker.cfg.graceful_timeout)

    def begin(self) -> None:
        """Start the drain time, if it has not started. Also called in signal handlers.

        When it expires, a thread of ours ends the process, even if a thread of the application, a signal handler or a
        view in the main thread blocks. Not a timer signal: the application may use it. While there is no memory for the
        thread, each further call tries again: nothing else would end a worker in a scope.
        """
        if self.began is None:
            self.began = time.monotonic()
        if not self._limit.locked():
            with suppress(RuntimeError, MemoryError):
                _start_thread(self._exit_when_overdue, ())

    @property
    def close_status(self) -> int:
        """The status of the close frame of a WebSocket that ends now (RFC 6455, section 7.4.1)."""
        if self._worker.alive:
            return NORMAL_CLOSURE
        return GOING_AWAY if self._worker.board.stopping else SERVICE_RESTART

    def announce(self) -> None:
        """Tell applications that the drain has begun. Further calls do nothing."""
        if not self._is_announced:
            self._is_announced = True
            self.begin()
            drain_calls.begin()
            self._worker.applications.send(server_info.DRAIN_BEGUN)

    def finish(self) -> None:
        """Wait for the application's holds, and log the result of the drain."""
        worker = self._worker
        self.announce()
        while holds.current() and time.monotonic() < self.deadline:
            self.begin()
            worker.notify()
            worker.beat()
            worker.reopen_files()
            time.sleep(DRAIN_POLL)
        is_cut_short = bool(holds.current() or worker.slot[Field.IN_FLIGHT])
        if is_cut_short:
            self._log_cut_short()
        worker.applications.for_each(lambda application: application.drained(cut_short=is_cut_short))
        self._log_end()
        reached(Step.WORKER_HAS_DRAINED)
        self._is_finished = True
        worker.handlers.call_application_handler()
        # Only if others serve: otherwise clients wait for the next start, and that waits for us.
        if worker.board.is_superseded or worker.carrier.siblings():
            time.sleep(EXIT_INTERVAL * (1 + worker.age % EXIT_TURNS))
        self._wait_for_threads()

    def limit_threads(self) -> None:
        """Give the application's threads the drain time, in a process that exits after an error: it may have no master
        that ends it."""
        self._is_finished = True
        self.begin()
        self._wait_for_threads()

    def _wait_for_threads(self) -> None:
        """Wait for the application's threads as long as no thread of ours limits that."""
        while not self._limit.locked() and _application_threads():
            if time.monotonic() > self.deadline + OVERDUE_GRACE:
                self._exit_when_overdue()
            self.begin()
            time.sleep(DRAIN_POLL)

    def _exit_when_overdue(self) -> None:
        if not self._limit.acquire(blocking=False):
            return  # another thread does that
        try:
            _sleep(max(0.0, self.deadline + OVERDUE_GRACE - time.monotonic()))
            if self._is_finished:  # the interpreter waits for threads, and only then calls these
                self._log_threads()
                atexit._run_exitfuncs()
            else:
                self._log_cut_short()
        finally:
            os._exit(0)

    def _log_threads(self) -> None:
        if names := _application_threads():
            self._worker.log.warning(
                "The drain time of %g s has expired: exiting although the application's thread %s is running (pid: %s)",
                self._drain_time,
                ", ".join(names),
                os.getpid(),
            )

    def _log_cut_short(self) -> None:
        left = [str(held) for held in holds.current()]
        if requests := self._worker.slot[Field.IN_FLIGHT]:
            left.append(f"{requests} requests")
        self._worker.log.warning(
            "The drain time of %g s has expired: exiting%s (pid: %s)",
            self._drain_time,
            f", and cutting off {', '.join(left)}" if left else "",
            os.getpid(),
        )

    def _log_end(self) -> None:
        worker = self._worker
        log, slot = worker.log, worker.slot
        if carried := worker.carrier.carried:
            fields = message_ids.CARRIED | {"CONNECTIONS": carried}
            log.info("Handed over %s idle connections to other workers", carried, extra=fields)
        if not slot[Field.OPEN]:
            log.info("Drained: no connection is left (pid: %s)", os.getpid(), extra=message_ids.DRAINED)


def _application_threads() -> list[str]:
    """Return the names of the threads that the interpreter waits for before it exits."""
    main = threading.main_thread()
    # Not alive: started without memory, it has never run.
    threads = (thread for thread in threading.enumerate() if thread is not main and thread.is_alive())
    return [thread.name for thread in threads if not thread.daemon]
