"""Whether the workers make progress: what ``WatchdogSec=`` hears of, and which of them must be replaced."""

from __future__ import annotations

import time
from collections.abc import Iterable

from gunicorn.workers.base import Worker

from flask_socketact.shared.scoreboard import Field

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

    def __init__(self, seconds: float) -> None:
        """Take ``WatchdogSec=``, in seconds."""
        self.interval = seconds * _INTERVAL
        self.limit = max(seconds * _STUCK, _MIN_STUCK)
        self._next_ping = 0.0

    def is_due(self) -> bool:
        """Whether systemd is to hear of progress now, if there is some."""
        now = time.monotonic()
        if now < self._next_ping:
            return False
        self._next_ping = now + self.interval
        return True

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
        return time.monotonic() - float(last) > self.limit

    def is_blocked(self, worker: Worker) -> bool:
        """Whether all threads of `worker` are inside requests that do not move."""
        moved: int = worker.slot[Field.MOVED]
        return moved > 0 and time.monotonic_ns() - moved > self.limit * 1e9
