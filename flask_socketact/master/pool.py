"""The workers of a master: forked, counted, replaced, buried."""

from __future__ import annotations

import math
import os
import signal
import time
from collections.abc import Sequence
from typing import Any

import gunicorn.arbiter
from gunicorn.app.base import BaseApplication
from gunicorn.errors import HaltServer
from gunicorn.workers.base import Worker

from flask_socketact import env
from flask_socketact.bridge import request_context
from flask_socketact.handover.mailbox import Mailbox
from flask_socketact.master import load_limit
from flask_socketact.master.failures import Failure
from flask_socketact.master.fork_hooks import watch_forks
from flask_socketact.master.load_limit import LoadLimit
from flask_socketact.master.worker_reports import Readiness
from flask_socketact.shared import scoreboard
from flask_socketact.shared.scoreboard import Field, Scoreboard
from flask_socketact.shared.service_counters import find_folder
from flask_socketact.systemd import cgroup

#: How long the master waits before it forks again after a worker that could not be forked, or could not load the
#: application, while others serve. Seconds.
RESPAWN_PAUSE = 2.0
#: How long a worker that loads the application, and has nothing to finish, may take to leave. Seconds.
LOAD_GRACE = 5.0
#: A worker that drains leaves by itself a second after its drain time is over. One that is still there so much later
#: does not hear, or cannot leave, and is killed. Seconds.
LEAVE_GRACE = 5.0


class Pool(gunicorn.arbiter.Arbiter):
    """gunicorn's arbiter, as far as its workers are concerned."""

    mailbox: Mailbox | None = None
    load_timeout: float  #: how long a worker may load the application, in seconds
    foreign: Sequence[Any] = ()  #: listeners that new workers must not keep

    def __init__(self, app: BaseApplication) -> None:
        self.readiness = Readiness()
        self.board, self.board_error = _make_board()
        self.cgroup = cgroup.of(os.getpid())
        self.generation = 1  #: number of the workers that are forked now: one more with each reload
        request_context.generation = request_context.name_generation(os.getpid(), self.generation)
        self.booted = False  #: all workers have answered once
        self.retired: set[int] = set()  #: pids of workers that a reload has told to go
        self.trouble: Failure | None = None  #: why workers are missing
        self._respawn_at = 0.0
        self._load_limit = LoadLimit()
        self._kill_at: dict[int, float] = {}  # pids of workers that drain; infinity: it has been done
        self._served = 0  # by workers that have gone
        super().__init__(app)

    def setup(self, app: BaseApplication) -> None:
        """Read the configuration: at the start, and anew at every reload.

        :raises SettingsError: the environment has no positive number for a time.
        """
        if str(app.cfg.settings["worker_class"].get()).endswith("SyncWorker"):
            app.cfg.set("threads", 1)  # with more gunicorn takes its gthread instead, even for our class
        super().setup(app)
        self.load_timeout = env.load_timeout()  # not before: raw_env may have it
        self.board.drain_time = self.cfg.graceful_timeout
        watch_forks(self)

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
        """The pids of workers that answer, and take new connections."""
        return self.readiness.accepting.difference(self.draining)

    @property
    def in_flight(self) -> int:
        """Requests that are being read, run or answered."""
        return self._sum(Field.IN_FLIGHT)

    @property
    def held(self) -> int:
        """Pieces of work beside requests that a drain waits for."""
        return self._sum(Field.HOLDS)

    @property
    def served(self) -> int:
        """Requests answered since the start."""
        return self._served + self._sum(Field.REQUESTS)

    @property
    def worn(self) -> list[int]:
        """The pids of workers that serve, and have answered as many requests as they may; the oldest first."""
        worn = [pid for pid in self.serving if self.WORKERS[pid].slot[Field.WORN]]
        return sorted(worn, key=lambda pid: int(self.WORKERS[pid].age))

    def manage_workers(self) -> None:
        """Replace workers that drain at once, not when they are gone: what they carry needs a reader, and a request
        that takes long must not leave the service with a worker less. Those that are worn (``max_requests``) go when
        somebody has taken their place: until then a release that does not load takes nobody away.

        Of those that are replaced one by one, at most as many are beside the others as there are of these,
        so that ``max_requests`` never more than doubles the processes.
        """
        wanted: int = self.num_workers
        self._dismiss_worn()
        draining = self.draining
        replaced = len(draining) - len(self.retired.intersection(draining))
        room = wanted - replaced
        self._num_workers = wanted + len(draining) + min(room, len(self.worn))
        if len(self.WORKERS) - len(draining) <= wanted:  # otherwise gunicorn ends the oldest
            self._num_workers = max(self._num_workers, len(self.WORKERS))
        if time.monotonic() < self._respawn_at:
            self._num_workers = min(self._num_workers, len(self.WORKERS))
        try:
            super().manage_workers()
        finally:
            self._num_workers = wanted

    def dismiss(self, pid: int) -> None:
        """Let a worker drain, and leave."""
        self.kill_worker(pid, signal.SIGTERM)

    def kill_worker(self, pid: int, sig: int) -> None:
        """Send a signal to a worker. SIGTERM lets it drain; its slot says so, too, because an application, or a library
        of it, may have taken the signal."""
        worker = self.WORKERS.get(pid)
        if worker is not None and sig == signal.SIGTERM:
            worker.slot.begin_drain()
        super().kill_worker(pid, sig)

    def murder_workers(self) -> None:
        """Kill workers that give no sign of life, do not leave, or do not end to load the application."""
        self._watch_loading()
        super().murder_workers()
        self._kill_overdue()

    def _watch_loading(self) -> None:
        """Give workers the time to load the application that is theirs, and kill those that take longer.

        :raises HaltServer: one has, and no other serves.
        """
        loading = self.WORKERS.keys() - self.readiness.accepting
        for pid in loading:
            self.WORKERS[pid].tmp.notify()
        late = self._load_limit.overdue(loading.difference(self.draining), self.load_timeout, time.monotonic())
        for pid in late:
            self.kill_worker(pid, signal.SIGKILL)
        if late:
            self.handle_slow_load(load_limit.failure(late, self.load_timeout))

    def handle_slow_load(self, reason: Failure) -> None:
        """Go on without a worker that has taken too long to load the application, if others serve.

        :raises HaltServer: none does, or it is the start, which succeeds with all workers, or not at all.
        """
        if not (self.booted and self.serving):
            raise HaltServer(reason.text, self.WORKER_BOOT_ERROR)
        self._wait_before_respawn(reason)

    def _kill_overdue(self) -> None:
        """Kill workers that have begun to drain, or have been told to, and should have left by now."""
        now = time.monotonic()
        for pid in self.draining:
            if self._kill_at.setdefault(pid, now + self._time_to_leave(pid)) < now:
                self._kill_at[pid] = math.inf
                self.log.error(
                    "Worker %s has not left %g s after its drain began: killed. %s",
                    pid,
                    self._time_to_leave(pid),
                    "The application may have taken SIGTERM, or have a thread that does not end"
                    if pid in self.readiness.accepting
                    else "It still loaded the application",
                )
                self.kill_worker(pid, signal.SIGKILL)

    def _time_to_leave(self, pid: int) -> float:
        if pid not in self.readiness.accepting:
            return LOAD_GRACE
        return float(self.WORKERS[pid].cfg.graceful_timeout) + LEAVE_GRACE

    def _dismiss_worn(self) -> None:
        for pid in self.worn[: max(0, len(self.serving) - self.num_workers)]:
            self.dismiss(pid)

    def spawn_worker(self) -> int:
        """Fork a worker, and return its pid; 0 if that fails while others serve, and is tried again later."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        try:
            pid: int = super().spawn_worker()
        except SystemExit:
            raise  # a worker leaves
        except BaseException as error:
            if os.getpid() != self.pid:  # the child, which could not even tell why it ends, and is no second master
                os._exit(self.WORKER_BOOT_ERROR)
            if not (self.booted and self.serving) or not isinstance(error, Exception):
                raise
            self._wait_before_respawn(Failure.of(error, "no worker can be forked: "))
            return 0
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return pid

    def reap_workers(self) -> None:
        """Bury the dead. gunicorn raises for one that could not boot, and ends the service; while others serve,
        or leave because the service ends already, that is no reason to."""
        before = dict(self.WORKERS)
        halt = None
        while True:
            try:
                super().reap_workers()
                break
            except HaltServer as error:
                halt = error  # there may be more of them
        self.readiness.collect(self.WORKERS)
        expected = [self._bury(pid, before[pid]) for pid in before.keys() - self.WORKERS]
        if halt is not None and not all(expected):
            self.handle_boot_failure(halt)

    def handle_boot_failure(self, halt: HaltServer) -> None:
        """Go on without a worker that could not boot, if others serve.

        :raises HaltServer: none does, or it is the start, which succeeds with all workers, or not at all.
        """
        if not (self.booted and self.serving):
            raise HaltServer(f"{halt.reason} {self.trouble.text if self.trouble else ''}".strip(), halt.exit_status)
        self._wait_before_respawn(self.trouble or Failure.known(halt.reason))

    def _sum(self, field: Field) -> int:
        return sum(int(worker.slot[field]) for worker in self.WORKERS.values())

    def _wait_before_respawn(self, reason: Failure) -> None:
        self.trouble = reason
        self._respawn_at = time.monotonic() + RESPAWN_PAUSE
        self.log.error("%s: the others serve on, and it is tried again every %s s", reason.text, RESPAWN_PAUSE)

    def handle_death(self, pid: int, worker: Worker, reason: Failure | None) -> bool:  # noqa: ARG002 (for who overrides)
        """Note why a worker has gone that has just been buried, if it has said why it could not boot; return whether
        that has consequences for nobody."""
        self.trouble = reason or self.trouble
        return pid in self.retired

    def _bury(self, pid: int, worker: Worker) -> bool:
        self._served += worker.slot[Field.REQUESTS]
        if not worker.tmp._tmp.closed:  # gunicorn has left out what follows: it could not boot
            worker.tmp.close()
            self.cfg.child_exit(self, worker)
        harmless = self.handle_death(pid, worker, self.readiness.failure(pid))
        worker.slot[Field.TAKEN] = 0  # what it had in flight is in flight no more
        self.retired.discard(pid)
        self._kill_at.pop(pid, None)
        return harmless

    def forget_relayed(self) -> str | None:
        """Forget workers that the relay has moved out of the service; return the name of their scope. Those that still
        load the application, for a reload or in the place of others, leave: the next generation loads it anew."""
        scope = None
        for pid in list(self.WORKERS):
            group = cgroup.of(pid)
            if group != self.cgroup and group is not None:
                scope = os.path.basename(group)
                if pid not in self.readiness.accepting:
                    self.kill_worker(pid, signal.SIGTERM)
                self.WORKERS.pop(pid).tmp.close()
        return scope


def _make_board() -> tuple[Scoreboard, str]:
    """Return the scoreboard, and why nobody outside can look at it, if somebody was to."""
    folder = find_folder()
    if folder is None:
        return Scoreboard(), ""
    try:
        return scoreboard.create(folder, os.getpid()), ""
    except OSError as error:
        return Scoreboard(), f"{folder}: {error.strerror}, so flask-socketact status sees no workers"
