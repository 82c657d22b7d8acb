"""A slot of the scoreboard: what one worker has counted."""

from __future__ import annotations

import time
from enum import IntEnum

from flask_socketact.linux import proc

#: Room for the fields of a slot, and bytes of one.
FIELDS, BYTES = 32, 8

#: User-Agent of ``flask-socketact deploy``. Its requests are not among `Field.MONITORED`: it subtracts them by itself.
DEPLOY_AGENT = "flask-socketact-deploy"


class Field(IntEnum):
    """The fields of a slot, all of them integers."""

    TAKEN = 0  #: 1 from before the fork until the master has reaped the worker
    PID = 1
    GENERATION = 2  #: 1 for the workers of the start; each reload adds 1
    THREADS = 3  #: number of requests that it can run at the same time
    ACCEPTING = 4  #: 1 while it accepts new connections
    DRAINING = 5  #: when its drain began: CLOCK_MONOTONIC, nanoseconds; 0: not yet
    REQUESTS = 6  #: number of requests since the worker was forked
    IN_FLIGHT = 7  #: requests that are read, run or responded to now
    OPEN = 8  #: connections, those in flight included
    IDLE = 9  #: idle keep-alive connections
    CARRIED_IN = 10
    CARRIED_OUT = 11
    ACCEPTED = 13  #: connections from a listener or the mailbox since the worker was forked
    PROGRESS = 14  #: when a thread was last free, or a request made progress: CLOCK_MONOTONIC, nanoseconds; 0: unknown
    RECYCLE = 15  #: 1 when it has reached max_requests, and is to be replaced
    OLDEST = 12  #: when the oldest request in flight began: CLOCK_MONOTONIC, nanoseconds; 0: none
    HOLDS = 16  #: pieces of work outside requests that a drain waits for
    ERRORS = 17  #: of the requests, those with a status of 500 or above
    AGE = 19  #: gunicorn's: how many workers the master had forked, this one included
    WEBSOCKETS = 20  #: open WebSockets
    STREAMS = 21  #: of the requests in flight, responses that last; in the thread worker they have threads of their own
    MONITORED = 22  #: of the requests, those of monitors to the extension's own endpoints, such as /readyz
    MONITORED_ERRORS = 23  #: of these, those with a status of 500 or above
    WAITED = 18  #: longest wait of a request in the worker's first seconds; nanoseconds


class Slot:
    """The fields of one worker: ``slot[Field.OPEN] += 1``."""

    def __init__(self, fields: memoryview, index: int) -> None:
        self.index = index
        self.fields = fields  #: for what is written for each request

    def __getitem__(self, field: int) -> int:
        return int(self.fields[field])

    def __setitem__(self, field: int, value: int) -> None:
        self.fields[field] = value

    def begin_drain(self) -> None:
        """Note that the worker accepts no new connections from now on. A second call changes nothing."""
        if not self[Field.DRAINING]:
            self[Field.DRAINING] = time.monotonic_ns()
            self[Field.ACCEPTING] = 0

    @property
    def judged(self) -> tuple[int, int]:
        """The requests, and those that failed, without the requests of monitors."""
        return self[Field.REQUESTS] - self[Field.MONITORED], self[Field.ERRORS] - self[Field.MONITORED_ERRORS]

    @property
    def is_alive(self) -> bool:
        """Whether the worker runs. A master that was killed has reaped no worker."""
        return bool(self[Field.PID]) and proc.exists(self[Field.PID])

    @property
    def oldest_age(self) -> float:
        """Seconds since the oldest request in flight began; 0.0 without one."""
        return (time.monotonic_ns() - self[Field.OLDEST]) / 1e9 if self[Field.OLDEST] else 0.0


def private_slot() -> Slot:
    """Return a slot that no other process sees."""
    return Slot(memoryview(bytearray(FIELDS * BYTES)).cast("q"), -1)
