"""The master's side: gunicorn's arbiter, with listeners from systemd and a true READY."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import gunicorn.app.base
import gunicorn.arbiter
from gunicorn.app.base import BaseApplication
from gunicorn.errors import HaltServer
from gunicorn.workers.base import Worker

from flask_socketact import activation, cgroup, current, events, listeners, notify
from flask_socketact.errors import NotifyError, SettingsError
from flask_socketact.mailbox import Mailbox
from flask_socketact.predecessors import Predecessors
from flask_socketact.readiness import Readiness
from flask_socketact.scoreboard import Field, Scoreboard

#: How often the master looks for reports while workers load the application, in seconds.
BOOT_POLL = 0.05
#: What a worker may be sent before it has handlers of its own.
_MESSAGES = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGUSR1, signal.SIGURG, signal.SIGWINCH)


def install() -> None:
    """Let the gunicorn command run our arbiter instead of its own.

    gunicorn has no setting for the class of its arbiter, and takes one function per
    server hook: a hook of ours would silently give way to the user's hook of the same
    name. So we use none. tests/process fails when gunicorn looks elsewhere for it.
    """
    gunicorn.app.base.Arbiter = Arbiter


class Arbiter(gunicorn.arbiter.Arbiter):
    """gunicorn's arbiter as a service of systemd."""

    def __init__(self, app: BaseApplication) -> None:
        # Before anything is opened: what we open could take the place of a descriptor that is missing.
        self._names = activation.listen_fds()
        if self._names:
            activation.unset_environment(os.environ)
        self._notify_socket = notify.take_address(os.environ)
        self._status = ""
        self._warning = ""
        self._ready = False
        self._booted = False
        self._stopping = False
        self._failed = False
        self._barrier: int | None = None  # before systemd has heard that we are ready
        self._cgroup = cgroup.of(os.getpid())
        self._readiness = Readiness()
        self._board = Scoreboard()
        self._mailbox: Mailbox | None = None
        super().__init__(app)
        self._predecessors = Predecessors(self._cgroup, self.log)

    def setup(self, app: BaseApplication) -> None:
        """Read the configuration: at the start, and anew at every reload."""
        if str(app.cfg.settings["worker_class"].get()).endswith("SyncWorker"):
            app.cfg.set("threads", 1)  # with more gunicorn takes its gthread instead, even for our class
        self.generation = current.generation = f"{os.getpid()}.1"
        super().setup(app)
        self._watch_workers()
        if self.LISTENERS and self.systemd:
            listeners.keep(self.LISTENERS, self.cfg, self.log)

    def start(self) -> None:
        if self.num_workers < 1:
            raise SettingsError(f"workers = {self.num_workers} would answer nobody: set workers or WEB_CONCURRENCY")
        if self._names:
            self._take_listeners()
        super().start()
        if not self.systemd:
            self.log.warning(
                "No listeners from systemd (%s): gunicorn has bound its own, "
                "and a restart refuses connections until it is done",
                activation.why_none(),
            )
        loading = f"Loading the application in {self.num_workers} workers"
        self.log.info(loading, extra=events.STARTED)
        self._tell(notify.status, loading)

    def wait_for_signals(self, timeout: float | None = 1.0) -> list[int]:
        """Wait as gunicorn does; then see which workers have begun to accept."""
        waiting = not self._booted or self._barrier is not None
        signals: list[int] = super().wait_for_signals(BOOT_POLL if waiting else timeout)
        self._readiness.collect(self.WORKERS)
        accepting = len(self._readiness.accepting)
        if accepting >= self.num_workers:
            self._booted = True
        if self._booted and not self._ready:
            self._ready = self._tell(notify.ready, self._serving())
            self._barrier = self._ask_for_barrier() if self._ready else None
            if self._ready:
                self.log.info("Ready: %s", self._serving(), extra=events.READY)
        elif self._booted:
            self._tell(notify.status, self._serving())
        if self._ready and self._is_started():
            self._predecessors.retire(self.cfg.graceful_timeout)
        return signals

    def _ask_for_barrier(self) -> int | None:
        try:
            return notify.barrier(self._notify_socket)
        except NotifyError as error:
            self.log.warning("%s", error)
            return None

    def _is_started(self) -> bool:
        """Whether systemd has taken the service for started. Of one that still starts, a restart would relay
        no workers: until then those of the generation before must be there."""
        if self._barrier is not None and notify.is_passed(self._barrier):
            os.close(self._barrier)
            self._barrier = None
        return self._barrier is None

    def manage_workers(self) -> None:
        """Replace workers that drain at once, not when they are gone: what they carry needs a reader,
        and a request that takes long must not leave the service with a worker less.

        At most as many as there are workers, so that the processes never are more than twice as many.
        """
        wanted: int = self.num_workers
        self._num_workers: int = wanted + min(wanted, len(self._draining()))
        try:
            super().manage_workers()
        finally:
            self._num_workers = wanted

    def handle_usr2(self) -> None:
        if self.systemd:
            self.log.error(
                "SIGUSR2 refused: systemd holds the listeners and would not know "
                "the new master. Use 'systemctl restart'"
            )
            return
        super().handle_usr2()

    def spawn_worker(self) -> int:
        """Fork while signals wait: until a worker has handlers of its own, it would put them
        into a copy of the master's queue that nobody reads."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _MESSAGES)
        try:
            pid: int = super().spawn_worker()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return pid

    def halt(self, reason: str | None = None, exit_status: int = 0) -> None:
        if reason is not None:
            self._failed = True
            self._announce_stop(f"{reason} See the journal")
        super().halt(reason, exit_status)

    def stop(self, graceful: bool = True) -> None:
        """Let the workers drain, and wait for them; those that have been relayed are no longer ours."""
        scope = self._forget_relayed()
        drain = f"at most {self.cfg.graceful_timeout} s" if graceful else "cutting them off"
        self._announce_stop(
            f"Restarting: the workers serve on in {scope}" if scope else f"Stopping: requests in flight end, {drain}"
        )
        # What is carried is read by relayed workers, or, after a failure, by the generation that systemd starts.
        self._board.stopping = not scope and not self._failed
        super().stop(graceful)
        if self._board.stopping:
            self._empty_mailbox()

    def _forget_relayed(self) -> str | None:
        """Forget workers that the relay has moved out of the service; return the name of their scope."""
        scope = None
        for pid in list(self.WORKERS):
            group = cgroup.of(pid)
            if group != self._cgroup and group is not None:
                scope = os.path.basename(group)
                self.WORKERS.pop(pid).tmp.close()
        return scope

    def _empty_mailbox(self) -> None:
        if self._mailbox is None or any(self._predecessors.workers()):
            return
        if dropped := self._mailbox.drop_all():
            self.log.warning("Mailbox: dropped what %s senders had left, with nobody to read it", dropped)

    def reap_workers(self) -> None:
        """Bury the dead. gunicorn raises for a worker that could not boot: a second one, while
        the first one's is being handled, would end the master with a traceback and another status."""
        try:
            super().reap_workers()
        except HaltServer:
            if not self._stopping:
                raise

    def _announce_stop(self, text: str) -> None:
        if not self._stopping:
            self._stopping = True
            self._tell(notify.stopping, text)

    def _draining(self) -> list[int]:
        """Return the pids of workers that have begun to drain."""
        return [pid for pid, worker in self.WORKERS.items() if worker.slot[Field.DRAINING]]

    def _take_listeners(self) -> None:
        self.LISTENERS, self._mailbox = listeners.take(self._names, self.cfg, self.log)
        self.systemd = True
        listeners.keep(self.LISTENERS, self.cfg, self.log)

    def _watch_workers(self) -> None:
        """Set ``pre_fork`` to the user's hook, with ours before it."""
        users: Callable[[Any, Any], None] = self.cfg.pre_fork

        def pre_fork(server: Arbiter, worker: Worker) -> None:
            self._readiness.watch(worker)
            _listen_to_messages(worker)
            self._board.keep(worker.slot for worker in self.WORKERS.values())
            worker.board, worker.mailbox, worker.cgroup = self._board, self._mailbox, self._cgroup
            worker.slot = self._board.take(self.pid, self.cfg.threads)
            worker.generation = self.generation
            users(server, worker)

        self.cfg.set("pre_fork", pre_fork)

    def _serving(self) -> str:
        draining = self._draining()
        accepting = len(self._readiness.accepting.difference(draining))
        text = f"Serving with {accepting} of {self.num_workers} workers at {listeners.describe(self.LISTENERS)}"
        if draining:
            in_flight = sum(self.WORKERS[pid].slot[Field.IN_FLIGHT] for pid in draining)
            text += f"; {len(draining)} draining, with {in_flight} requests in flight"
        if old := self._predecessors.workers():
            text += f"; {len(old)} old, from before a restart"
        return text

    def _tell(self, message: Callable[[str | None, str], None], text: str) -> bool:
        """Send `message`, unless systemd knows `text` already; return whether it does now.

        A failure never stops the service: it is logged once, and the next turn of the loop tries again.
        """
        if text == self._status:
            return True
        try:
            message(self._notify_socket, text)
        except NotifyError as error:
            if str(error) != self._warning:
                self._warning = str(error)
                self.log.warning("%s", error)
            return False
        self._status = text
        return True


def _listen_to_messages(worker: Worker) -> None:
    """Let `worker` take the signals that wait since its fork as soon as it has handlers for them."""
    init_signals = worker.init_signals

    def init_and_unblock() -> None:
        init_signals()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _MESSAGES)

    worker.init_signals = init_and_unblock
