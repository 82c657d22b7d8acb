"""Whether the workers make progress: what ``WatchdogSec=`` hears of, and which of them must be replaced."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from gunicorn.workers.base import Worker

from flask_socketact.shared.scoreboard import Field

if TYPE_CHECKING:
    from flask_socketact.master.arbiter import Arbiter

#: Parts of ``WatchdogSec=``: how often it is told of progress, and after how long without any a worker is stuck. So
#: systemd acts within one and a half of it.
_INTERVAL = 1 / 4
_STUCK = 1 / 2
#: Workers give a sign of life every second: so many seconds at least are none of silence.
_MIN_STUCK = 2.0


class Watchdog:
    """The judge of a service's workers.

    A worker is stuck when its main loop gives no sign of life; or when each of its threads is inside a request that
    nothing has moved, neither the application's answer nor the client (only the thread worker tells).
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Take ``WatchdogSec=``, in seconds; and the clock of the workers, CLOCK_MONOTONIC, in seconds."""
        self._clock = clock
        self.interval = seconds * _INTERVAL
        self.limit = max(seconds * _STUCK, _MIN_STUCK)
        self._next_look = 0.0
        self._is_hopeless = False  # all workers are stuck

    def look(self, master: Arbiter) -> None:
        """Replace workers that are stuck; as long as some are not, tell systemd."""
        now = self._clock()
        if now < self._next_look:
            return
        self._next_look = now + self.interval
        if self.has_progress(master.WORKERS.values()):
            self._is_hopeless = False
            self._replace_stuck(master)
            master.manager.watchdog()
        elif not self._is_hopeless:
            self._is_hopeless = True
            master.log.critical("All workers are stuck: systemd restarts the service, as its WatchdogSec= says")

    def _replace_stuck(self, master: Arbiter) -> None:
        for pid, worker in list(master.WORKERS.items()):
            if self.is_silent(worker):
                master.log.critical("Worker %s has given no sign of life for %s s: killed", pid, self.limit)
                master.kill_worker(pid, signal.SIGKILL if worker.aborted else signal.SIGABRT)
                worker.aborted = True
            elif pid in master.serving and self.is_blocked(worker):
                master.log.critical("No request of worker %s has moved for %s s: replaced", pid, self.limit)
                master.drain_worker(pid)

    def has_progress(self, workers: Iterable[Worker]) -> bool:
        """Whether one of `workers` is not stuck; or there is none, and others are about to be forked."""
        stuck = [self.is_silent(worker) or self.is_blocked(worker) for worker in workers]
        return not stuck or not all(stuck)

    def is_silent(self, worker: Worker) -> bool:
        """Whether the loop of `worker` gives no sign of life; while it loads the application nobody expects one."""
        try:
            last = worker.tmp.last_update()
        except (OSError, ValueError):  # it has just gone
            return False
        return self._clock() - float(last) > self.limit

    def is_blocked(self, worker: Worker) -> bool:
        """Whether all threads of `worker` are inside requests that do not move."""
        moved: int = worker.slot[Field.MOVED]
        return moved > 0 and self._clock() - moved / 1e9 > self.limit
