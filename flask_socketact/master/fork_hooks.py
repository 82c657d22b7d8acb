"""What happens just before and after the fork of a worker: the user's ``pre_fork`` and ``post_fork``, and ours."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gunicorn.workers.base import Worker

from flask_socketact.bridge import request_context
from flask_socketact.master import early_signals
from flask_socketact.shared.slot import Field

if TYPE_CHECKING:
    from flask_socketact.master.pool import Pool


def equip(pool: Pool, worker: Worker) -> None:
    """Give a worker that is about to be forked what it shares with the master."""
    pool.reports.watch(worker)
    worker.board, worker.mailbox, worker.cgroup = pool.board, pool.mailbox, pool.cgroup
    worker.generation = request_context.name_generation(pool.pid, pool.generation)
    if not hasattr(worker, "slot"):  # in a loader it has the one that the master has taken
        pool.board.keep(worker.slot for worker in pool.WORKERS.values())
        worker.slot = pool.board.take(pool.generation, pool.cfg.threads)
        worker.slot[Field.AGE] = worker.age


def watch_forks(pool: Pool) -> None:
    """Set ``pre_fork`` and ``post_fork`` to functions that call the user's hooks, and do what is ours."""
    before_fork: Callable[[Any, Any], None] = pool.cfg.pre_fork
    after_fork: Callable[[Any, Any], None] = pool.cfg.post_fork

    def pre_fork(server: Pool, worker: Worker) -> None:
        equip(pool, worker)
        before_fork(server, worker)
        early_signals.block()  # not before: child processes of the hook would inherit the mask

    def post_fork(server: Pool, worker: Worker) -> None:
        early_signals.remember_for(worker)
        if pool.await_admission is not None:
            pool.await_admission(worker)
        for listener in pool.dropped_listeners:
            listener.close()
        with pool.reports.boot(worker):
            after_fork(server, worker)

    pool.cfg.set("pre_fork", pre_fork)
    pool.cfg.set("post_fork", post_fork)
