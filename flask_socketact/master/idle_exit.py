"""Exit after a time without connections: the socket unit starts the service again with the next one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from flask_socketact import env
from flask_socketact.shared.slot import Field, Slot

if TYPE_CHECKING:
    from flask_socketact.master.arbiter import Arbiter

#: A worker is busy while one of these is not 0.
_BUSY = (Field.OPEN, Field.IN_FLIGHT, Field.HOLDS)


class IdleExit:
    """The time since the last connection."""

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._seen: tuple[int, ...] = ()
        self._since = clock()

    def look(self, master: Arbiter) -> None:
        """Let the master exit, if the time is over, no reload is in progress, and no old workers are left."""
        is_over = self.is_over(worker.slot for worker in master.WORKERS.values())
        if is_over and not master.reloads.is_loading and not master.old.workers():
            master.exit_idle(self.seconds)

    def is_over(self, slots: Iterable[Slot]) -> bool:
        """Whether the workers with these slots have had no connection for the whole time, not even a short one."""
        slots = list(slots)
        now = self._clock()
        seen = tuple(slot[field] for slot in slots for field in (Field.PID, Field.ACCEPTED, Field.REQUESTS))
        if seen != self._seen or any(slot[field] for slot in slots for field in _BUSY):
            self._seen, self._since = seen, now
        return now - self._since >= self.seconds


def from_environment() -> IdleExit | None:
    """Return what :data:`env.IDLE_EXIT` asks for; None when it is not set.

    :raises SettingsError: it is not a positive number.
    """
    seconds = env.idle_exit()
    return None if seconds is None else IdleExit(seconds)
