"""How long a worker may load the application: gunicorn's ``timeout`` is that of requests."""

from __future__ import annotations

import math
from collections.abc import Iterable

from flask_socketact import env
from flask_socketact.master.failures import Failure

#: A worker logs its stack when its load timeout expires; the master kills it this much later. Seconds.
STACK_TIME = 0.5


class LoadLimit:
    """The load timeouts of the workers that load the application."""

    def __init__(self) -> None:
        self._deadlines: dict[int, float] = {}  # infinity: it was returned as overdue

    def overdue(self, loading: Iterable[int], seconds: float, now: float) -> list[int]:
        """Return the pids of workers that have taken too long, each once.

        :param loading: pids of all workers that load the application now
        :param seconds: load timeout of those among them that are new
        :param now: CLOCK_MONOTONIC, in seconds
        """
        deadline = now + seconds + STACK_TIME
        self._deadlines = {pid: self._deadlines.get(pid, deadline) for pid in loading}
        late = [pid for pid, deadline in self._deadlines.items() if now > deadline]
        self._deadlines.update(dict.fromkeys(late, math.inf))
        return late


def failure(pids: list[int], seconds: float) -> Failure:
    """Describe workers that did not load the application within `seconds`."""
    return too_slow(f"worker{'s' if len(pids) > 1 else ''} {', '.join(map(str, pids))}", seconds)


def too_slow(which: str, seconds: float) -> Failure:
    """Describe processes that did not load the application within `seconds`."""
    return Failure.known(f"{which} killed: did not load the application within {env.LOAD_TIMEOUT} = {seconds:g} s")
