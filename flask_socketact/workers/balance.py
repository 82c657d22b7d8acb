"""Balance between the workers of a service: connections go to a sibling that has fewer of them, or a free thread.

A worker gives, and never takes: it sends connections to the mailbox, where another one takes them. Only connections
without a request in flight can be given, as in a drain (carrier.py).
"""

from __future__ import annotations

import time
from itertools import islice
from typing import TYPE_CHECKING

from flask_socketact.http.states import State
from flask_socketact.shared.scoreboard import Field, Slot

if TYPE_CHECKING:
    from flask_socketact.workers.base import BaseWorker
    from flask_socketact.workers.connection_loop import Loop

#: How often a worker compares its connections with its siblings', in seconds: when it has new ones, and else.
SOON, INTERVAL = 0.05, 0.4
#: A worker gives connections if it has more than one in this many above a sibling's.
LEAD_RATIO = 5
#: How long a worker that has given connections leaves the mailbox to its siblings, in seconds.
MAIL_PAUSE = 0.01


def busy_threads(slot: Slot) -> int:
    """Return how many requests of a worker occupy a request thread, or wait for one."""
    return slot[Field.IN_FLIGHT] - slot[Field.WEBSOCKETS] - slot[Field.STREAMS]


def can_serve(slot: Slot) -> bool:
    """Return whether a worker accepts connections, and can serve another soon.

    With one thread, a busy worker is likely to be free in a moment.
    """
    return bool(slot[Field.ACCEPTING]) and busy_threads(slot) < max(2, slot[Field.THREADS])


class Balance:
    """What one worker gives. Used by the thread that polls, and by the supervisor in its place."""

    def __init__(self, worker: BaseWorker, loop: Loop) -> None:
        self._worker = worker
        self._loop = loop
        self._compared = 0.0  # when we compared last: CLOCK_MONOTONIC, seconds
        self.has_new = False  #: connections since then

    def look(self, now: float) -> float:
        """Give connections to siblings that have fewer, if it is time; return after how many seconds to call again."""
        wait = self._compared + (SOON if self.has_new else INTERVAL) - now
        if wait > 0.0:
            return wait
        self._compared, self.has_new = now, False
        surplus = self._surplus() if len(self._loop.connections) > 1 else 0
        if surplus and self._worker.carrier.can_give:
            with self._loop.lock:
                idle = (each for each in self._loop.connections if each.state is State.IDLE and each.is_movable)
                self._worker.carrier.give(list(islice(idle, surplus)))
            self._loop.acceptor.leave_mail(time.monotonic() + MAIL_PAUSE)
        return INTERVAL

    def _surplus(self) -> int:
        """Return how many connections we have above the mean, if a sibling has clearly fewer."""
        ours = len(self._loop.connections)
        others = [sibling[Field.OPEN] for sibling in self.siblings() if can_serve(sibling)]
        if not others or ours - min(others) <= max(1, min(others) // LEAD_RATIO):
            return 0
        return max(0, ours - (ours + sum(others)) // (1 + len(others)))

    def give_waiting(self) -> None:
        """Give connections whose requests wait for a thread to siblings that have free ones."""
        free = self.free_threads() if self._worker.carrier.can_give else 0
        with self._loop.lock:
            waiting = (each for each in self._loop.ready if each.is_movable)
            self._worker.carrier.give(list(islice(waiting, free)))

    def free_threads(self) -> int:
        """Return how many threads of siblings have no request."""
        return sum(max(0, sibling[Field.THREADS] - busy_threads(sibling)) for sibling in self.siblings())

    def siblings(self) -> list[Slot]:
        """Return the other workers that accept connections; none in a drain. Fast: it is called often."""
        worker = self._worker
        if not worker.alive or worker.mailbox is None:
            return []
        return [slot for slot in worker.board.taken() if slot[Field.ACCEPTING] and slot.index != worker.slot.index]
