"""Leaving when nobody asks for anything: the socket unit starts the service again with the next connection."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from flask_socketact import env
from flask_socketact.shared.scoreboard import Field, Slot

if TYPE_CHECKING:
    from flask_socketact.master.arbiter import Arbiter

#: What a worker is not idle with.
_BUSY = (Field.OPEN, Field.IN_FLIGHT, Field.HOLDS)


class IdleExit:
    """A clock that runs while no connection is open, and begins anew with each."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._seen: tuple[int, ...] = ()
        self._since = clock()

    def look(self, master: Arbiter) -> None:
        """Let the master leave, if it is time to, and no workers are left from before a restart."""
        is_over = self.is_over(worker.slot for worker in master.WORKERS.values())
        if is_over and not master.reloads.is_loading and not master.old.workers():
            master.leave(self.seconds)

    def is_over(self, slots: Iterable[Slot]) -> bool:
        """Whether the workers that have `slots` had no connection for so long, nor one that has come and gone."""
        slots = list(slots)
        now = self._clock()
        seen = tuple(slot[field] for slot in slots for field in (Field.PID, Field.ACCEPTED, Field.REQUESTS))
        if seen != self._seen or any(slot[field] for slot in slots for field in _BUSY):
            self._seen, self._since = seen, now
        return now - self._since >= self.seconds


def from_environment() -> IdleExit | None:
    """Return the clock that the environment asks for; None when it asks for none.

    :raises SettingsError: what it has is not a positive number.
    """
    seconds = env.idle_exit()
    return None if seconds is None else IdleExit(seconds)
