"""The supervisor in the leader's place, while all threads of the pool are inside requests and none polls."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from flask_socketact.workers.lasting import RequestThread

if TYPE_CHECKING:
    from flask_socketact.workers.leader import ThreadPool
    from flask_socketact.workers.thread import ThreadWorker

#: How often to look for requests that wait while siblings have free threads, in seconds.
LOOK_INTERVAL = 0.004


class StandIn:
    """Does what the leader does between two requests, except to serve."""

    def __init__(self, worker: ThreadWorker, pool: ThreadPool) -> None:
        """`worker` has its loop already."""
        self._worker = worker
        self._loop = worker.loop
        self._pool = pool
        self._supervisor = RequestThread()  # stands for the main thread

    def lead_if_all_are_busy(self) -> float:
        """Hand connections over in a drain, or give siblings those whose requests they can serve at once.

        Otherwise both would wait until a thread is free. Return after how many seconds to call again.
        """
        if not self._worker.alive:
            self._lead(self._worker.continue_drain)
        elif self._are_all_busy() and self._loop.balance.siblings():
            if self._loop.balance.free_threads() and self._worker.carrier.can_give:
                self._lead(self._give_waiting)
            return LOOK_INTERVAL
        return math.inf

    def _are_all_busy(self) -> bool:
        leader = self._pool.leader
        return not self._pool.followers and leader is not None and leader.connection is not None

    def _give_waiting(self) -> None:
        """Give waiting connections, new ones included: the kernel may have woken this worker for them, and no other."""
        self._loop.acceptor.leave_mail(time.monotonic() + 2 * LOOK_INTERVAL)
        self._loop.poll(0.0)
        self._loop.balance.give_waiting()

    def _lead(self, work: Callable[[], object]) -> None:
        """Do `work` as the leader, if all threads are inside requests."""
        pool = self._pool
        with self._loop.lock:
            leader = pool.leader
            if leader is None or leader.connection is None or pool.followers:
                return
            self._loop.unregister(leader.connection)
            pool.leader = self._supervisor
        try:
            work()
        finally:
            with self._loop.lock:
                pool.leader = leader
                if pool.followers:  # a thread, maybe the leader, has finished its request meanwhile
                    pool.promote_follower()
