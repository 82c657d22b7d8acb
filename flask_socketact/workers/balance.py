"""Balance between the workers of a service: connections go to a sibling that has fewer of them, or a free thread.

A worker gives, and never takes: it sends connections to the mailbox, where another one takes them. Only connections
without a request in flight can be given, as in a drain (carrier.py).
"""

from __future__ import annotations

import time
from itertools import islice
from typing import TYPE_CHECKING

from flask_socketact.http.states import State
from flask_socketact.shared.slot import Field, Slot

if TYPE_CHECKING:
    from flask_socketact.workers.base import BaseWorker
    from flask_socketact.workers.connection_loop import Loop

#: How often a worker compares its connections with its siblings', in seconds: when it has new ones, and else. While
#: giving changes nothing, because a sibling hangs or connections have TLS, it looks less and less often.
SOON, INTERVAL, LONGEST_INTERVAL = 0.05, 0.4, 6.4
#: A worker accepts no more for a moment only if its lead over a sibling is larger than this number of connections ...
MAX_AHEAD = 2
#: ... and larger than one in this many of the sibling's connections. Two busy workers accept only once in each turn of
#: their loops; with a smaller margin they would accept a burst of connections three at a time.
AHEAD_RATIO = 8
#: A worker gives connections if it has more than one in this many above a sibling's.
LEAD_RATIO = 5
#: How many waiting connections a worker gives at once for each free thread: most requests are short.
GIVEN_FOR_THREAD = 4
#: How long a worker that has given connections leaves the mailbox to its siblings, in seconds.
MAIL_PAUSE = 0.01


def busy_threads(slot: Slot) -> int:
    """Return how many requests of a worker occupy a request thread, or wait for one."""
    return slot[Field.IN_FLIGHT] - slot[Field.WEBSOCKETS] - slot[Field.STREAMS]


def has_free_thread(slot: Slot) -> bool:
    """Return whether a worker accepts connections, and can serve another at once."""
    return bool(slot[Field.ACCEPTING]) and busy_threads(slot) < slot[Field.THREADS]


def can_serve(slot: Slot) -> bool:
    """Return whether a worker accepts connections, and can serve another soon.

    With one thread, a busy worker is likely to be free in a moment.
    """
    return bool(slot[Field.ACCEPTING]) and busy_threads(slot) < max(2, slot[Field.THREADS])


def leads(connections: int, slot: Slot) -> bool:
    """Return whether a worker with so many connections has clearly more than another."""
    return connections > slot[Field.OPEN] + max(MAX_AHEAD, slot[Field.OPEN] // AHEAD_RATIO)


class Balance:
    """What one worker gives. Used by the thread that polls, and by the supervisor in its place."""

    def __init__(self, worker: BaseWorker, loop: Loop) -> None:
        self._worker = worker
        self._loop = loop
        self._compared = 0.0  # when we compared last: CLOCK_MONOTONIC, seconds
        self._interval = INTERVAL
        self._last = (0, 0, 0)  # the last look: the surplus, how many were given, CARRIED_IN
        self.has_new = False  #: connections since then

    def look(self, now: float) -> float:
        """Give connections to siblings that have fewer, if it is time; return after how many seconds to call again."""
        is_soon = self.has_new and self._interval == INTERVAL
        wait = self._compared + (SOON if is_soon else self._interval) - now
        if wait > 0.0:
            return wait
        self._compared, self.has_new = now, False
        self._interval = min(2 * self._interval, LONGEST_INTERVAL) if self._was_in_vain() else INTERVAL
        surplus = self._surplus() if len(self._loop.connections) > 1 else 0
        given = self._give_idle(surplus) if surplus and self._worker.carrier.can_give else 0
        self._last = surplus, given, self._worker.slot[Field.CARRIED_IN]
        return self._interval

    def _was_in_vain(self) -> bool:
        """Return whether nothing could be given at the last look, or most has come back from the mailbox."""
        surplus, given, received = self._last
        return surplus > 0 and 2 * (self._worker.slot[Field.CARRIED_IN] - received) >= given

    def _give_idle(self, number: int) -> int:
        """Give idle connections; return how many there were."""
        with self._loop.lock:
            idle = (each for each in self._loop.connections if each.state is State.IDLE and each.is_movable)
            given = list(islice(idle, number))
            self._worker.carrier.give(given)
        self._loop.acceptor.leave_mail(time.monotonic() + MAIL_PAUSE)
        return len(given)

    def _surplus(self) -> int:
        """Return how many connections we have above the mean, if a sibling has clearly fewer."""
        ours = len(self._loop.connections)
        others = [sibling[Field.OPEN] for sibling in self.siblings() if has_free_thread(sibling)]
        if not others or ours - min(others) <= max(1, min(others) // LEAD_RATIO):
            return 0
        return max(0, ours - (ours + sum(others)) // (1 + len(others)))

    def give_waiting(self) -> None:
        """Give connections whose requests wait for a thread to siblings that have free ones."""
        free = GIVEN_FOR_THREAD * self.free_threads() if self._worker.carrier.can_give else 0
        with self._loop.lock:
            waiting = (each for each in self._loop.ready if each.is_movable)
            self._worker.carrier.give(list(islice(waiting, free)))

    def free_threads(self) -> int:
        """Return how many threads of siblings have no request."""
        return sum(max(0, sibling[Field.THREADS] - busy_threads(sibling)) for sibling in self.siblings())

    def siblings(self) -> list[Slot]:
        """Return the workers to which connections may be given; none in a drain. Fast: it is called often."""
        worker = self._worker
        if not worker.alive or worker.mailbox is None:
            return []
        return worker.carrier.siblings()
