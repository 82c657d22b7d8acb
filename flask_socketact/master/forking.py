"""How a master forks its workers: itself; or, with ``preload_app``, through a loader."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import gunicorn.arbiter
from gunicorn.app.base import BaseApplication
from gunicorn.workers.base import Worker

from flask_socketact.master import fork_hooks, load_limit
from flask_socketact.master.failures import Failure
from flask_socketact.master.load_limit import LoadLimit
from flask_socketact.master.load_pace import LoadPace
from flask_socketact.master.loader import Loader
from flask_socketact.master.worker_reports import WorkerReports
from flask_socketact.shared.slot import Field

#: How often the master looks at loaders that exit, in a stop. Seconds.
LOADER_POLL = 0.02


class Forking(gunicorn.arbiter.Arbiter):
    """gunicorn's arbiter: the part that forks workers, and watches them until they have loaded the application.

    gunicorn's master loads the application itself with ``preload_app``, and cannot load another release afterwards.
    Ours leaves it to a loader, one for each generation, which forks the workers, too.
    """

    load_timeout: float  #: how long the application may take to load, in seconds
    loader: Loader | None = None  #: of the newest generation; it is started when a worker is needed
    #: Waits until the master knows a new worker: set in a process that a loader has forked.
    await_admission: Callable[[Worker], None] | None = None

    def __init__(self, app: BaseApplication) -> None:
        self.reports = WorkerReports()
        self._load_limit = LoadLimit()
        self._load_pace = LoadPace()
        self.rotations = 0  #: how often the log files were rotated
        self.ending: list[Loader] = []  #: loaders that were told to end
        super().__init__(app)

    def setup(self, app: BaseApplication) -> None:
        """Read the configuration as gunicorn does, but load nothing."""
        preload = app.cfg.preload_app
        app.cfg.set("preload_app", False)
        super().setup(app)
        if preload and app.cfg.reload:
            self.log.warning("preload_app is ignored: with reload, each worker must load the changed application")
        else:
            app.cfg.set("preload_app", preload)
        fork_hooks.watch_forks(self)

    @property
    def loading(self) -> set[int]:
        """The pids of workers that load the application."""
        return set(self.WORKERS).difference(self.reports.accepting)

    @property
    def is_booting(self) -> bool:
        """Whether a worker, or the loader, loads the application."""
        return bool(self.loading) or not (self.loader is None or self.loader.has_loaded)

    def can_fork(self) -> bool:
        """Return whether a worker can be forked now. With ``preload_app`` the loader must have loaded the application;
        it is started now if there is none. Otherwise no more workers load it at once than leave CPUs to those that
        serve. Relayed workers are in another control group, to which the kernel gives as much as to ours."""
        if not self.cfg.preload_app:
            return not self.serving or self._load_pace.has_room(self.loading, time.monotonic())
        if self.loader is None:
            try:
                self.loader = Loader(self)
            except OSError as error:
                self.handle_failed_load(Failure.of(error, "no loader can be forked: "))
                return False
        return self.loader.has_loaded

    def spawn_worker(self) -> int:
        """Fork a worker, and return its pid; 0 if that fails while others serve."""
        if self.loader is None:
            pid: int = super().spawn_worker()
            return pid
        self.worker_age += 1
        worker = self.worker_class(
            self.worker_age, self.pid, self.LISTENERS, self.app, self.timeout / 2.0, self.cfg, self.log
        )
        fork_hooks.equip(self, worker)
        forked = self.loader.fork(worker, self.rotations)
        if isinstance(forked, Failure):
            worker.tmp.close()
            if not self.loader.was_told_to_exit:
                self.handle_failed_load(forked)
            return 0
        worker.pid = worker.slot[Field.PID] = forked  # the worker waits for this
        self.WORKERS[forked] = worker
        self._stats["workers_spawned"] += 1
        return forked

    def watch_loading(self) -> None:
        """Let workers load the application up to the load timeout, and kill those that take longer.

        :raises HaltServer: one has taken longer, and no other worker serves.
        """
        for pid in self.loading:
            self.WORKERS[pid].tmp.notify()
        loading = self.loading.difference(self.draining)
        late = self._load_limit.overdue(loading, self.load_timeout, time.monotonic())
        for pid in late:
            self.kill_worker(pid, signal.SIGKILL)
        if late:
            self.handle_failed_load(load_limit.failure(late, self.load_timeout))

    def look_at_loader(self) -> None:
        """Note whether the loader has loaded the application. One that fails or exits is forgotten, and replaced when
        the next worker is needed."""
        self._look_at_ending()
        loader = self.loader
        reason = loader.look() if loader else None
        if loader is None or reason is None:
            return
        self.end_loader()
        if loader.has_loaded or loader.was_told_to_exit:
            self.log.warning("%s. Another one loads the application when a worker is needed", reason.text)
        else:
            self.handle_failed_load(reason)

    def _look_at_ending(self) -> None:
        now = time.monotonic()
        needed = {worker.slot[Field.GENERATION] for worker in self.WORKERS.values()}
        self.ending = [each for each in self.ending if not each.is_gone(now, is_needed=each.generation in needed)]

    def reap_workers(self) -> None:
        if self.loader is not None:
            self.loader.reap()  # before gunicorn does, which would not tell us why it has exited
        super().reap_workers()

    def handle_usr1(self) -> None:
        self.rotations += 1
        super().handle_usr1()

    def retire_loader(self, loader: Loader | None) -> None:
        """Let a loader exit, when the workers of its generation have exited."""
        if loader is not None:
            loader.end()
            self.ending.append(loader)

    def end_loader(self) -> None:
        """Let the newest loader exit, if there is one."""
        self.retire_loader(self.loader)
        self.loader = None

    def stop(self, graceful: bool = True) -> None:
        """Stop the workers as gunicorn does, and wait until their loaders have exited, too."""
        super().stop(graceful)
        while self.ending:
            self._look_at_ending()
            time.sleep(LOADER_POLL)

    def handle_failed_load(self, reason: Failure) -> None:
        """Continue without a worker. What else follows is for subclasses to say."""
