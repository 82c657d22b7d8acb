"""What the processes of one master know of each other: counters in memory that they share.

One anonymous mapping, made by the master before it forks. Each worker has a slot, which it alone
writes; the master and its siblings read. A field is eight bytes, aligned, and stored at once, so
that nobody takes a lock; two fields read one after the other may be of different moments.
"""

from __future__ import annotations

import mmap
import time
from collections.abc import Iterable, Iterator
from enum import IntEnum

#: More processes than this never live at once: workers, and those that drain beside them.
SLOTS = 1024

_FIELDS = 32
_BYTES = 8
# In the header, which takes the place of a first slot:
_STOPPING = 0
_HIGHEST = 1  # how many slots, from the first on, have ever been taken
_READY = 2  # the latest generation whose workers have all answered; 0: none yet


class Field(IntEnum):
    """The fields of a slot, all of them integers."""

    TAKEN = 0  #: 1 from before the fork until the master has buried the worker
    PID = 1
    GENERATION = 2  #: 1 for the workers of the start, one more for those of each reload
    THREADS = 3  #: how many requests it can run at once
    ACCEPTING = 4  #: 1 while it takes new connections
    DRAINING = 5  #: 1 from the beginning of its drain
    REQUESTS = 6  #: answered since the worker began
    IN_FLIGHT = 7  #: requests being read, run or answered
    OPEN = 8  #: connections, those in flight included
    IDLE = 9  #: connections that wait for a request
    CARRIED_IN = 10
    CARRIED_OUT = 11
    ACCEPTED = 13  #: connections taken from a listener or the mailbox since the worker began
    MOVED = 14  #: when a thread was last free, or a request moved: CLOCK_MONOTONIC, nanoseconds; 0: not told
    WORN = 15  #: 1 when it has answered max_requests, and is to be replaced
    OLDEST = 12  #: when the oldest request in flight began: CLOCK_MONOTONIC, nanoseconds; 0: none
    HOLDS = 16  #: pieces of work, beside requests, that a drain waits for


class Slot:
    """The fields of one worker: ``slot[Field.OPEN] += 1``."""

    def __init__(self, fields: memoryview, index: int) -> None:
        self.index = index
        self._fields = fields

    def __getitem__(self, field: int) -> int:
        value: int = self._fields[field]
        return value

    def __setitem__(self, field: int, value: int) -> None:
        self._fields[field] = value

    @property
    def oldest_age(self) -> float:
        """Seconds since the oldest request in flight began; 0.0 without one."""
        began = self[Field.OLDEST]
        return (time.monotonic_ns() - began) / 1e9 if began else 0.0


class Scoreboard:
    """The slots of one master's workers."""

    def __init__(self) -> None:
        self._memory = memoryview(mmap.mmap(-1, (1 + SLOTS) * _FIELDS * _BYTES)).cast("q")
        self._slots = [
            Slot(self._memory[start : start + _FIELDS], index)
            for index, start in enumerate(range(_FIELDS, (1 + SLOTS) * _FIELDS, _FIELDS))
        ]

    @property
    def stopping(self) -> bool:
        """Whether the service stops: the master says so before it sends SIGTERM."""
        return bool(self._memory[_STOPPING])

    @stopping.setter
    def stopping(self, value: bool) -> None:
        self._memory[_STOPPING] = value

    @property
    def ready(self) -> int:
        """The generation that the service manager knows to be ready, or a later one; 0: none yet."""
        return int(self._memory[_READY])

    @ready.setter
    def ready(self, generation: int) -> None:
        self._memory[_READY] = generation

    def take(self, generation: int, threads: int) -> Slot:
        """Return a free slot, emptied.

        :raises RuntimeError: there is none.
        """
        for slot in self._slots:
            if not slot[Field.TAKEN]:
                for field in Field:
                    slot[field] = 0
                slot[Field.GENERATION] = generation
                slot[Field.THREADS] = threads
                slot[Field.TAKEN] = 1
                self._memory[_HIGHEST] = max(self._memory[_HIGHEST], slot.index + 1)
                return slot
        raise RuntimeError(f"more than {SLOTS} worker processes: set fewer workers")

    def taken(self) -> Iterator[Slot]:
        """Return the slots in use."""
        return (slot for slot in self._slots[: self._memory[_HIGHEST]] if slot[Field.TAKEN])

    def keep(self, slots: Iterable[Slot]) -> None:
        """Free all slots but these: the others' workers are gone."""
        kept = {slot.index for slot in slots}
        for slot in self.taken():
            if slot.index not in kept:
                slot[Field.TAKEN] = 0
