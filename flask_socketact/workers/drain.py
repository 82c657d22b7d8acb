"""The end of a worker: it takes nothing new, finishes what it has, and leaves, at the latest after the drain time."""

from __future__ import annotations

import _thread
import atexit
import math
import os
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from flask_socketact.bridge import holds, server_info
from flask_socketact.shared.scoreboard import Field
from flask_socketact.systemd import message_ids

if TYPE_CHECKING:
    from flask_socketact.workers.base import BaseWorker

#: How often a worker that drains looks at what is left, in seconds.
DRAIN_POLL = 0.05
#: How long an idle connection stays open in a drain, for a request that its client may have sent already. Seconds.
LINGER = 2.0
#: A worker that does not leave by itself, whatever keeps it, leaves so much later than the drain time. Seconds.
OVERDUE_GRACE = 1.0

#: The real ones, taken before gevent puts its own in their place: what ends a worker must not wait for its loop.
_start_thread = _thread.start_new_thread
_sleep = time.sleep


class Drain:
    """The drain of one worker; the drain time is gunicorn's ``graceful_timeout``, and has one clock."""

    def __init__(self, worker: BaseWorker) -> None:
        self._worker = worker
        self.began: float | None = None  #: CLOCK_MONOTONIC, seconds; None: it has not
        self._is_announced = False  # applications know
        self._is_finished = False

    @property
    def deadline(self) -> float:
        """When the drain time is over: CLOCK_MONOTONIC, seconds."""
        return math.inf if self.began is None else self.began + self._drain_time

    @property
    def _drain_time(self) -> float:
        return float(self._worker.cfg.graceful_timeout)

    def begin(self) -> None:
        """Let the drain time run, if it does not yet. Called in signal handlers, too.

        Its end is the process's, whatever keeps that: a thread of the application, a signal handler, a view in the main
        thread. Not by a timer's signal, which the application may want for itself.
        """
        if self.began is None:
            self.began = time.monotonic()
            with suppress(RuntimeError):  # no thread can be started: the master ends a worker that does not leave
                _start_thread(self._exit_when_overdue, ())

    def announce(self) -> None:
        """Let applications know of the drain; called, perhaps again, when it has begun."""
        if not self._is_announced:
            self._is_announced = True
            self.begin()
            self._worker.applications.send(server_info.DRAIN_BEGUN)

    def finish(self) -> None:
        """Wait for what the application holds, and say what has become of the drain."""
        worker = self._worker
        self.announce()
        while holds.current() and time.monotonic() < self.deadline:
            worker.notify()
            worker.beat()
            worker.reopen_files()
            time.sleep(DRAIN_POLL)
        is_cut_short = bool(holds.current() or worker.slot[Field.IN_FLIGHT])
        if is_cut_short:
            self._log_cut_short()
        worker.applications.for_each(lambda application: application.drained(cut_short=is_cut_short))
        self._log_end()
        self._is_finished = True
        worker.handlers.call_application_handler()

    def _exit_when_overdue(self) -> None:
        try:
            _sleep(max(0.0, self.deadline + OVERDUE_GRACE - time.monotonic()))
            if self._is_finished:  # the interpreter waits for threads, and calls these after them
                self._log_threads()
                atexit._run_exitfuncs()
            else:
                self._log_cut_short()
        finally:
            os._exit(0)

    def _log_threads(self) -> None:
        main = threading.main_thread()
        names = [thread.name for thread in threading.enumerate() if not thread.daemon and thread is not main]
        if names:
            self._worker.log.warning(
                "The drain time of %g s is over: leaving without the application's thread %s (pid: %s)",
                self._drain_time,
                ", ".join(names),
                os.getpid(),
            )

    def _log_cut_short(self) -> None:
        left = [str(held) for held in holds.current()]
        if requests := self._worker.slot[Field.IN_FLIGHT]:
            left.append(f"{requests} requests")
        self._worker.log.warning(
            "The drain time of %g s is over: leaving%s (pid: %s)",
            self._drain_time,
            f", and cutting short {', '.join(left)}" if left else "",
            os.getpid(),
        )

    def _log_end(self) -> None:
        log, slot = self._worker.log, self._worker.slot
        if carried := slot[Field.CARRIED_OUT]:
            fields = message_ids.CARRIED | {"CONNECTIONS": carried}
            log.info("Carried %s idle connections to other workers", carried, extra=fields)
        if not slot[Field.OPEN]:
            log.info("Drained, with nothing left (pid: %s)", os.getpid(), extra=message_ids.DRAINED)
