"""Whether the workers make progress: if none does, systemd restarts the service; a stuck one is replaced before."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from gunicorn.workers.base import Worker

from flask_socketact.shared.slot import Field

if TYPE_CHECKING:
    from flask_socketact.master.arbiter import Arbiter

#: As parts of ``WatchdogSec=``: how often systemd is told of progress, and how long a stuck worker has made none. So
#: systemd acts within 1.5 times ``WatchdogSec=``.
_INTERVAL = 1 / 4
_STUCK = 1 / 2
#: Workers give a sign of life every second, so a shorter silence means nothing. Seconds.
_MIN_STUCK = 2.0


class Watchdog:
    """Checks the workers of a service.

    A worker is stuck when its main loop gives no sign of life; or when each of its threads is in a request in which
    neither the application nor the client makes progress (known of the thread worker only).
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        """Take ``WatchdogSec=`` in seconds, and the clock that workers use: CLOCK_MONOTONIC, in seconds."""
        self._clock = clock
        self.interval = seconds * _INTERVAL
        self.limit = max(seconds * _STUCK, _MIN_STUCK)
        self._next_look = 0.0
        self._is_hopeless = False  # all workers are stuck

    def look(self, master: Arbiter) -> None:
        """Replace stuck workers; tell systemd that the service is alive, unless all are stuck."""
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
                master.log.critical("Worker %s killed: no sign of life for %g s", pid, self.limit)
                master.kill_worker(pid, signal.SIGKILL if worker.aborted else signal.SIGABRT)
                worker.aborted = True
            elif pid in master.serving and self.is_blocked(worker):
                master.log.critical("Worker %s replaced: no progress in any of its requests for %g s", pid, self.limit)
                master.drain_workers([pid])

    def has_progress(self, workers: Iterable[Worker]) -> bool:
        """Whether a worker is not stuck; or there are no workers, and new ones are about to be forked."""
        stuck = [self.is_silent(worker) or self.is_blocked(worker) for worker in workers]
        return not stuck or not all(stuck)

    def is_silent(self, worker: Worker) -> bool:
        """Whether the main loop of `worker` gives no sign of life; while it loads the application, none is expected."""
        try:
            last = worker.tmp.last_update()
        except (OSError, ValueError):  # it has just exited
            return False
        return self._clock() - float(last) > self.limit

    def is_blocked(self, worker: Worker) -> bool:
        """Whether all threads of `worker` are in requests without progress."""
        moved: int = worker.slot[Field.PROGRESS]
        return moved > 0 and self._clock() - moved / 1e9 > self.limit
