"""Which workers to fork, drain and kill. Decided from data alone: no process, no clock, no signal."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum, auto


class State(Enum):
    """What a worker does."""

    LOADING = auto()  #: it loads the application
    SERVING = auto()  #: it accepts connections
    DRAINING = auto()  #: it accepts no new connections, and exits when it has finished the others


@dataclass(frozen=True)
class WorkerHandle:
    """What the master knows of one worker when it makes a plan."""

    pid: int
    age: int  #: gunicorn's: the higher, the later the worker was forked
    state: State
    is_due: bool = False  #: it has reached ``max_requests``, and drains when another worker has taken its place
    is_retired: bool = False  #: a reload has told it to drain, and has forked the worker that replaces it
    exit_by: float = math.inf  #: when a draining worker must have exited: CLOCK_MONOTONIC, seconds


@dataclass(frozen=True)
class Plan:
    """What the master does next to have as many serving workers as are wanted."""

    fork: int  #: number of workers to fork
    drain: tuple[int, ...]  #: pids of workers to drain


def plan(workers: Collection[WorkerHandle], wanted: int, *, may_fork: bool = True) -> Plan:
    """Return what leads to `wanted` serving workers.

    - A draining worker is replaced at once, not after its exit: its connections need a worker that accepts them, and a
      long request must not leave the service one worker short.
    - A worker that is due drains only when enough others serve. Until then, a release that does not load takes no
      worker away.
    - Workers that are replaced one by one are at most `wanted`, so ``max_requests`` at most doubles the processes.
    - Of too many workers (SIGTTOU, or fewer in a new configuration) those that still load drain first, then the oldest.

    :param may_fork: whether a fork may be tried now; not just after one has failed
    """
    active = sorted((worker for worker in workers if worker.state is not State.DRAINING), key=_drains_first)
    serving = [worker for worker in active if worker.state is State.SERVING]
    due = [worker for worker in serving if worker.is_due]
    recycled = due[: max(0, len(serving) - wanted)]
    waiting = due[len(recycled) :]
    rest = [worker for worker in active if worker not in due]
    surplus = rest[: max(0, len(rest) - wanted)]
    replaced = len(recycled) + sum(worker.state is State.DRAINING and not worker.is_retired for worker in workers)
    allowed = min(wanted + len(waiting), 2 * wanted - replaced)
    return Plan(
        fork=max(0, allowed - len(active) + len(recycled)) if may_fork else 0,
        drain=tuple(worker.pid for worker in (*recycled, *surplus)),
    )


def overdue(workers: Collection[WorkerHandle], now: float) -> list[int]:
    """Return the pids of draining workers that should have exited before `now` (CLOCK_MONOTONIC, seconds)."""
    return [worker.pid for worker in workers if worker.state is State.DRAINING and worker.exit_by < now]


def _drains_first(worker: WorkerHandle) -> tuple[bool, int]:
    return worker.state is State.SERVING, worker.age
