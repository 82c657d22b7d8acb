"""How long a worker may load the application: gunicorn's ``timeout`` is that of requests."""

from __future__ import annotations

import math
from collections.abc import Iterable

from flask_socketact import env
from flask_socketact.master.failures import Failure

#: A worker that loads for too long writes down where it is before it is killed, so many seconds later.
STACK_TIME = 0.5


class LoadLimit:
    """The clocks of the workers that load the application."""

    def __init__(self) -> None:
        self._deadlines: dict[int, float] = {}  # infinity: it has been told

    def overdue(self, loading: Iterable[int], seconds: float, now: float) -> list[int]:
        """Return, once, the pids of those that have loaded for too long, of all that load; one that begins may take so
        many `seconds`. `now`: CLOCK_MONOTONIC, seconds."""
        deadline = now + seconds + STACK_TIME
        self._deadlines = {pid: self._deadlines.get(pid, deadline) for pid in loading}
        late = [pid for pid, deadline in self._deadlines.items() if now > deadline]
        self._deadlines.update(dict.fromkeys(late, math.inf))
        return late


def failure(pids: list[int], seconds: float) -> Failure:
    """Say that these have loaded for longer than `seconds`."""
    who, have, are = ("worker", "has", "is") if len(pids) == 1 else ("workers", "have", "are")
    which = ", ".join(map(str, pids))
    limit = f"{env.LOAD_TIMEOUT} = {seconds:g} s"
    return Failure.known(f"{who} {which} {have} not loaded the application in {limit}, and {are} killed")
