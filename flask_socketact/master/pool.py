"""The workers of a master: forked, counted, replaced, reaped."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Collection, Sequence
from typing import Any

from gunicorn.app.base import BaseApplication
from gunicorn.errors import HaltServer
from gunicorn.workers.base import Worker

from flask_socketact import env
from flask_socketact.bridge import request_context
from flask_socketact.handover.mailbox import Mailbox
from flask_socketact.master import plan, statsd
from flask_socketact.master.failures import Failure
from flask_socketact.master.forking import Forking
from flask_socketact.master.plan import State, WorkerHandle
from flask_socketact.shared import scoreboard
from flask_socketact.shared.scoreboard import Scoreboard
from flask_socketact.shared.service_counters import find_folder
from flask_socketact.shared.slot import Field
from flask_socketact.systemd import cgroup

#: Pause before the next fork after a worker could not be forked, or could not load the application, while others
#: serve. Seconds.
RESPAWN_PAUSE = 2.0
#: How long a worker that is told to drain while it loads the application may take to exit. Seconds.
LOADING_GRACE = 5.0
#: How often it is told to, in a stop. Seconds.
LOADING_REMINDER = 1.0
#: A draining worker exits by itself one second after its drain time. One that still runs this long after its drain time
#: does not handle signals, or cannot exit, and is killed. Seconds.
EXIT_GRACE = 5.0


class Pool(Forking):
    """gunicorn's arbiter: the part that manages workers."""

    mailbox: Mailbox | None = None
    dropped_listeners: Sequence[Any] = ()  #: listeners that old workers need, and new workers close

    def __init__(self, app: BaseApplication) -> None:
        self.board, self.board_error = _make_board()
        self.cgroup = cgroup.of(os.getpid())
        self.generation = 1  #: of the workers that are forked now; each reload increases it
        request_context.generation = request_context.name_generation(os.getpid(), self.generation)
        self.booted = False  #: all workers have accepted once
        self.retired: set[int] = set()  #: pids of workers that a reload has told to drain
        self.shortage: Failure | None = None  #: why there are fewer workers than wanted
        self._respawn_at = 0.0
        self._killed: set[int] = set()  # pids of draining workers that got SIGKILL
        self._served = 0  # by workers that have exited
        self._remind_at = 0.0  # tell workers that load the application again to exit; CLOCK_MONOTONIC, seconds
        super().__init__(app)

    def setup(self, app: BaseApplication) -> None:
        """Read the configuration, at the start and at each reload.

        :raises SettingsError: an environment variable that holds a time is not a positive number.
        """
        if str(app.cfg.settings["worker_class"].get()).endswith("SyncWorker"):
            app.cfg.set("threads", 1)  # with more, gunicorn replaces even our class by its gthread
        super().setup(app)
        self.load_timeout = env.load_timeout()  # after setup(): raw_env may set it
        self.board.drain_time = self.cfg.graceful_timeout

    @property
    def hands_over(self) -> bool:
        """Whether the worker class is one of ours, which hand connections over, and read the mailbox."""
        return getattr(self.worker_class, "hands_over", False)

    @property
    def draining(self) -> list[int]:
        """The pids of workers that have begun to drain."""
        return [pid for pid, worker in self.WORKERS.items() if worker.slot[Field.DRAINING]]

    @property
    def serving(self) -> set[int]:
        """The pids of workers that accept new connections."""
        return self.reports.accepting.difference(self.draining)

    @property
    def in_flight(self) -> int:
        """Number of requests that are read, run or responded to now."""
        return self._sum(Field.IN_FLIGHT)

    @property
    def held(self) -> int:
        """Number of pieces of work outside requests that a drain waits for."""
        return self._sum(Field.HOLDS)

    @property
    def served(self) -> int:
        """Number of requests since the start."""
        return self._served + self._sum(Field.REQUESTS)

    def _sum(self, field: Field) -> int:
        return sum(int(worker.slot[field]) for worker in self.WORKERS.values())

    @property
    def has_enough(self) -> bool:
        """Whether as many workers serve as are wanted, without those that are due for recycling."""
        due = sum(bool(self.WORKERS[pid].slot[Field.RECYCLE]) for pid in self.serving)
        return bool(len(self.serving) - due >= self.num_workers)

    def manage_workers(self) -> None:
        """Fork and drain workers, as :func:`flask_socketact.master.plan.plan` says."""
        todo = plan.plan(self._handles(), self.num_workers, may_fork=time.monotonic() >= self._respawn_at)
        self.drain_workers(todo.drain)
        for _ in range(todo.fork):
            if not (self.can_fork() and self.spawn_worker()):
                break
        statsd.log_numbers(self)

    def drain_workers(self, pids: Collection[int]) -> None:
        """Let workers drain, and exit. All slots say so before the first signal: a client that must connect again must
        not get another worker that is about to drain."""
        for pid in pids:
            self.WORKERS[pid].slot.begin_drain()
        for pid in pids:
            self.kill_worker(pid, signal.SIGTERM)

    def kill_worker(self, pid: int, sig: int) -> None:
        """Send a signal to a worker. SIGTERM lets it drain; its slot says so, too, because the application, or one of
        its libraries, may have replaced the signal's handler."""
        worker = self.WORKERS.get(pid)
        if worker is not None and sig == signal.SIGTERM:
            worker.slot.begin_drain()
        super().kill_worker(pid, sig)

    def remind_loading(self) -> None:
        """Tell workers that load the application again to exit. Called repeatedly in a stop: Python does not handle a
        signal that comes just before a system call blocks, and a module may catch SystemExit while it is imported."""
        now = time.monotonic()
        if now >= self._remind_at:
            self._remind_at = now + LOADING_REMINDER
            for pid in self.loading:
                self.kill_worker(pid, signal.SIGTERM)

    def murder_workers(self) -> None:
        """Kill workers that give no sign of life, do not exit, or take too long to load the application."""
        self.watch_loading()
        super().murder_workers()
        self._kill_overdue()

    def handle_failed_load(self, reason: Failure) -> None:
        """Continue without a worker: it, or its loader, has failed to load the application, or has taken too long.

        :raises HaltServer: no worker serves, or this is the start, which succeeds with all workers or fails.
        """
        if not (self.booted and self.serving):
            self.shortage = reason
            raise HaltServer(reason.text, self.WORKER_BOOT_ERROR)
        self._wait_before_respawn(reason)

    def _kill_overdue(self) -> None:
        """Kill workers that should have exited: a draining worker exits by itself at the end of its drain time."""
        for pid in set(plan.overdue(self._handles(), time.monotonic())).difference(self._killed):
            self._killed.add(pid)
            self.log.error(
                "Worker %s killed: it has not exited %g s after its drain began. %s",
                pid,
                self._time_to_exit(pid),
                "The application may have replaced the handler of SIGTERM, or has a thread that does not end"
                if pid in self.reports.accepting
                else "It was loading the application",
            )
            self.kill_worker(pid, signal.SIGKILL)

    def _time_to_exit(self, pid: int) -> float:
        """Return how long a worker may drain before it is killed, in seconds."""
        if pid not in self.reports.accepting:
            return LOADING_GRACE
        return float(self.WORKERS[pid].cfg.graceful_timeout) + EXIT_GRACE

    def _handles(self) -> list[WorkerHandle]:
        return [self._handle(pid, worker) for pid, worker in self.WORKERS.items()]

    def _handle(self, pid: int, worker: Worker) -> WorkerHandle:
        began = worker.slot[Field.DRAINING] / 1e9
        state = State.SERVING if pid in self.reports.accepting else State.LOADING
        return WorkerHandle(
            pid=pid,
            age=worker.age,
            state=State.DRAINING if began else state,
            is_due=bool(worker.slot[Field.RECYCLE]),
            is_retired=pid in self.retired,
            exit_by=began + self._time_to_exit(pid) if began else math.inf,
        )

    def spawn_worker(self) -> int:
        """Fork a worker, and return its pid; 0 if that fails while others serve: the next try follows after a pause."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        try:
            pid: int = super().spawn_worker()
        except SystemExit:
            raise  # the worker's process exits
        except BaseException as error:
            if os.getpid() != self.pid:  # the child, which could not report why it ends, must not go on as a master
                os._exit(self.WORKER_BOOT_ERROR)
            if not (self.booted and self.serving) or not isinstance(error, Exception):
                raise
            self._wait_before_respawn(Failure.of(error, "no worker can be forked: "))
            return 0
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return pid

    def reap_workers(self) -> None:
        """Reap workers that have exited. gunicorn raises for one that could not boot, which ends the service; ours
        continues while others serve, or when the service stops anyway."""
        before = dict(self.WORKERS)
        halt = None
        while True:
            try:
                super().reap_workers()
                break
            except HaltServer as error:
                halt = error  # other workers may have exited, too
        self.reports.collect(self.WORKERS)
        expected = [self._note_exit(pid, before[pid]) for pid in before.keys() - self.WORKERS]
        if halt is not None and not all(expected):
            self.handle_boot_failure(halt)

    def handle_boot_failure(self, halt: HaltServer) -> None:
        """Continue without a worker that could not boot, if others serve.

        :raises HaltServer: no worker serves, or this is the start, which succeeds with all workers or fails.
        """
        if not (self.booted and self.serving):
            raise HaltServer(f"{halt.reason} {self.shortage.text if self.shortage else ''}".strip(), halt.exit_status)
        self._wait_before_respawn(self.shortage or Failure.known(halt.reason))

    def _wait_before_respawn(self, reason: Failure) -> None:
        self.shortage = reason
        self._respawn_at = time.monotonic() + RESPAWN_PAUSE
        self.log.error("%s: the other workers serve, and the next try follows in %g s", reason.text, RESPAWN_PAUSE)

    def worker_exited(self, pid: int, worker: Worker, reason: Failure | None) -> bool:  # noqa: ARG002 (Arbiter's needs it)
        """Note why a worker has exited, if it has reported why it could not boot; return whether the exit was expected,
        so that nothing follows from it."""
        self.shortage = reason or self.shortage
        return pid in self.retired

    def _note_exit(self, pid: int, worker: Worker) -> bool:
        self._served += worker.slot[Field.REQUESTS]
        if not worker.tmp._tmp.closed:  # gunicorn skips these two for a worker that could not boot
            worker.tmp.close()
            self.cfg.child_exit(self, worker)
        is_expected = self.worker_exited(pid, worker, self.reports.failure(pid))
        self.board.free(worker.slot)
        self.retired.discard(pid)
        self._killed.discard(pid)
        return is_expected

    def forget_relayed(self) -> str | None:
        """Forget workers that the relay has moved out of the service; return the name of their scope. Workers that
        still load the application exit: the next generation loads it again."""
        scope = None
        for pid in list(self.WORKERS):
            group = cgroup.of(pid)
            if group != self.cgroup and group is not None:
                scope = os.path.basename(group)
                if pid not in self.reports.accepting:
                    self.kill_worker(pid, signal.SIGTERM)
                self.WORKERS.pop(pid).tmp.close()
        if scope:
            self.ending.clear()  # the loaders exit after their workers
        return scope


def _make_board() -> tuple[Scoreboard, str]:
    """Return the scoreboard; and why ``flask-socketact status`` cannot read it, if it should be able to."""
    folder = find_folder()
    if folder is None:
        return Scoreboard(), ""
    try:
        return scoreboard.create(folder, os.getpid()), ""
    except OSError as error:
        return Scoreboard(), f"{folder}: {error.strerror}, so flask-socketact status sees no workers"
