"""How many workers load the application at once while others serve: an import keeps a CPU busy that requests need."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from flask_socketact.linux import proc

#: Workers that load the application may keep this part of the CPUs busy; at least one CPU.
PART = 1 / 2
#: How long a new worker is watched before it is known whether it keeps a CPU busy. Seconds.
WINDOW = 0.2
#: One that has wanted a CPU for less than this part of that time waits for something else, as for a database.
BUSY = 1 / 2


@dataclass
class _Load:
    """What is known of a worker that loads the application."""

    since: float  #: when the current window began: CLOCK_MONOTONIC, seconds
    wanted: float  #: for how long it had wanted a CPU by then; seconds
    is_busy: bool = True


class LoadPace:
    """The workers of a master that load the application."""

    def __init__(self, cpus: int | None = None) -> None:
        """Take the number of CPUs; by default, of those that this process may use."""
        self._most = max(1, int((cpus or len(os.sched_getaffinity(0))) * PART))
        self._loads: dict[int, _Load] = {}

    def has_room(self, loading: Iterable[int], now: float) -> bool:
        """Return whether one more worker may begin.

        :param loading: pids of all workers that load the application now
        :param now: CLOCK_MONOTONIC, in seconds
        """
        self._loads = {pid: self._loads.get(pid) or _Load(since=now, wanted=proc.wanted_cpu(pid)) for pid in loading}
        for pid, load in self._loads.items():
            passed = now - load.since
            if passed >= WINDOW:
                wanted = proc.wanted_cpu(pid)
                load.is_busy = wanted - load.wanted >= BUSY * passed or proc.is_runnable(pid)
                load.since, load.wanted = now, wanted
        return sum(load.is_busy for load in self._loads.values()) < self._most
