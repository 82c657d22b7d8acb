"""The master's side: gunicorn's arbiter, with listeners from systemd and a true READY."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

import gunicorn.app.base
from gunicorn.app.base import BaseApplication
from gunicorn.errors import HaltServer
from gunicorn.workers.base import Worker

from flask_socketact import env
from flask_socketact.errors import NotifyError, SettingsError
from flask_socketact.handover.old_generations import Predecessors, RelayedWorker
from flask_socketact.logs import reopen
from flask_socketact.master import idle_exit, listeners, status_line
from flask_socketact.master.failures import Failure
from flask_socketact.master.idle_exit import IdleExit
from flask_socketact.master.notifier import Manager
from flask_socketact.master.pool import Pool
from flask_socketact.master.reload import Reload
from flask_socketact.master.watchdog import Watchdog
from flask_socketact.shared.service_counters import Ledger, find_folder
from flask_socketact.systemd import activation, cgroup, message_ids, notify

#: How often the master looks at its workers, in seconds.
TURN = 1.0
#: How often it looks for reports while workers load the application, in seconds.
BOOT_POLL = 0.05
#: A worker that has not left by itself when the drain time is over is killed so much later. Seconds.
OVERDUE = 2.0
#: While requests are in flight, a stop may last so much longer than systemd has heard last; and a start, or a reload,
#: while workers load the application, which has a limit of its own. Seconds.
EXTENSION = 10.0
#: How often that is said. Seconds.
EXTENSION_INTERVAL = 1.0
#: When the application has been loaded for so long it begins to be said. Seconds.
LONG = 5.0


def install() -> None:
    """Let the gunicorn command run our arbiter instead of its own.

    gunicorn has no setting for the class of its arbiter, and takes one function per
    server hook: a hook of ours would silently give way to the user's hook of the same
    name. So we use none. tests/process fails when gunicorn looks elsewhere for it.
    """
    gunicorn.app.base.Arbiter = Arbiter


class Arbiter(Pool):
    """gunicorn's arbiter as a service of systemd."""

    def __init__(self, app: BaseApplication) -> None:
        self.reload = Reload(self)
        # Before anything is opened: what we open could take the place of a descriptor that is missing.
        self._names = activation.listen_fds()
        if self._names:
            activation.unset_environment(os.environ)
        address, seconds = notify.take_address(os.environ), notify.take_watchdog(os.environ)
        self._watchdog = Watchdog(seconds) if seconds else None
        self._idle_exit = idle_exit.from_environment() if self._names else None
        self._turn = TURN  # of the loop, at most
        if self._watchdog:
            self._turn = min(self._turn, self._watchdog.interval)
        if self._idle_exit:
            self._turn = min(self._turn, self._idle_exit.seconds)
        self._ready = self._reloading = False  # ... as systemd has heard
        self._started = False  # systemd has heard that we are ready
        self._stopping = False
        self._leaves_mail = False  # systemd starts the service again for what is in the mailbox
        self._hopeless = False  # all workers are stuck
        self._drain_end = 0.0
        self._extend_at = 0.0
        if app.cfg.preload_app:  # here, where nothing else can be said until that has ended
            with suppress(NotifyError):
                notify.extend_timeout(address, env.load_timeout() + EXTENSION)
        super().__init__(app)
        self.manager = Manager(address, self.log)
        self._ledger = Ledger(self.log)
        if self.board_error:
            self.log.warning("%s", self.board_error)
        self._predecessors = Predecessors(self.cgroup, find_folder(), self.log, on_exit=self._bury_relayed)

    def setup(self, app: BaseApplication) -> None:
        self.reload.ignore_preload(app)
        super().setup(app)
        if not self.hands_over:
            self.log.warning(
                "worker_class = %s is not flask_socketact's: its workers close connections in a restart, and new "
                "connections may reach the release before. See docs/workers.md",
                self.cfg.worker_class_str,
            )
        if self.LISTENERS and self.systemd:
            listeners.keep(self.LISTENERS, self.cfg, self.log)

    def start(self) -> None:
        if self.num_workers < 1:
            raise SettingsError(f"workers = {self.num_workers} would answer nobody: set workers or WEB_CONCURRENCY")
        if self._names:
            self._take_listeners()
        self._predecessors.look()
        super().start()
        if not env.may_overlap(os.environ):
            self._wait_for_predecessors()
        self._ledger.count("starts")
        if not self.systemd:
            self.log.warning(
                "No listeners from systemd (%s): gunicorn has bound its own, "
                "and a restart refuses connections until it is done",
                activation.why_none(),
            )
        text = f"Loading the application in {self.num_workers} workers, for at most {self.load_timeout:g} s"
        self.log.info(text, extra=message_ids.STARTED)
        self.manager.status(text)

    def _wait_for_predecessors(self) -> None:
        """Load nothing before old workers have left: an earlier configuration may have let them live on."""
        while old := self._predecessors.workers():
            self.manager.status(f"Waiting until {len(old)} workers from before have left: {env.OVERLAP}=no")
            self._predecessors.retire(self.cfg.graceful_timeout)
            self._extend_timeout()
            time.sleep(BOOT_POLL)
            self._predecessors.look()

    def wait_for_signals(self, timeout: float | None = 1.0) -> list[int]:  # noqa: ARG002 (gunicorn's is a second)
        """Wait as gunicorn does; then see which workers have begun to accept."""
        is_booting = len(self.WORKERS) > len(self.readiness.accepting)
        is_waiting = is_booting or not self.booted or not self._started or self.reload.is_loading or self.reload.is_due
        signals: list[int] = super().wait_for_signals(BOOT_POLL if is_waiting else self._turn)
        self.readiness.collect(self.WORKERS)
        self._predecessors.look()
        if (self.reload.is_loading or not self._ready) and time.monotonic() - self.reload.loading_since > LONG:
            self._extend_timeout()
        self.board.is_deaf = not self.hands_over
        if self.board.is_deaf:
            self._empty_mailbox()  # nobody else reads it
        if len(self.readiness.accepting) >= self.num_workers:  # those that are replaced already have answered, too
            self.reload.load_time = self.reload.load_time or time.monotonic() - self.reload.loading_since
            self.booted = True
        if len(self.serving.difference(self.worn)) >= self.num_workers:
            self.trouble = None
        if self.booted:
            self.report_state()
            self.reload.advance()
            if self.reload.is_due:
                self.reload.begin()
        if self._started:
            self._predecessors.retire(self.cfg.graceful_timeout)
            if self._idle_exit and self._is_idle(self._idle_exit):
                self._leave(self._idle_exit.seconds)
        return signals

    def _is_idle(self, clock: IdleExit) -> bool:
        is_over = clock.is_over(worker.slot for worker in self.WORKERS.values())
        return is_over and not self.reload.is_loading and not any(self._predecessors.workers())

    def _leave(self, seconds: float) -> None:
        """Leave with success. A connection that comes now is answered, or waits for those whom systemd starts."""
        self.log.info("No connection for %g s: leaving, the next one starts the service", seconds)
        self._leaves_mail = True
        self._announce_stop(f"Idle for {seconds:g} s: the next connection starts the service")
        raise StopIteration  # as SIGTERM does

    def report_state(self) -> None:
        """Tell systemd whether new workers load, or the service is ready; tried again until it is known."""
        if self.reload.is_loading:
            self._ready = False
            if not self._reloading:
                text = f"Reloading: generation {self.generation} loads the application"
                self._reloading = self.manager.reloading(text)
            return
        self._reloading = False
        text = status_line.serving(self, old=len(self._predecessors.workers()))
        if self._ready:
            self.manager.status(text)
        else:
            if not self._started and not self.board.is_deaf:
                self._predecessors.supersede()
            self._ready = self.manager.ready(text)
            self.board.note_ready(self.generation, self.reload.loading_since)
            if self._ready and not self._started:
                self.log.info("Ready: %s", text, extra=message_ids.READY)
                self._ledger.note(boot_seconds=self.reload.load_time)
                self.manager.ask_for_barrier()
        # Of a service that still starts, a restart would relay no workers: until systemd takes it for started
        # those of the generation before must be there.
        self._started = self._started or (self._ready and self.manager.has_acted)

    def note_reload(self, *, succeeded: bool) -> None:
        self._ledger.count("reloads" if succeeded else "failed_reloads")

    def murder_workers(self) -> None:
        """Replace workers that do nothing; as long as some do something, tell systemd."""
        if self._watchdog and self.booted and self._watchdog.is_due():
            self._watch(self._watchdog)
        super().murder_workers()

    def _watch(self, watchdog: Watchdog) -> None:
        if watchdog.has_progress(self.WORKERS.values()):
            self._hopeless = False
            self._replace_stuck(watchdog)
            self.manager.watchdog()
        elif not self._hopeless:
            self._hopeless = True
            self.log.critical("All workers are stuck: systemd restarts the service, as its WatchdogSec= says")

    def _replace_stuck(self, watchdog: Watchdog) -> None:
        for pid, worker in list(self.WORKERS.items()):
            if watchdog.is_silent(worker):
                self.log.critical("Worker %s has given no sign of life for %s s: killed", pid, watchdog.limit)
                self.kill_worker(pid, signal.SIGKILL if worker.aborted else signal.SIGABRT)
                worker.aborted = True
            elif pid in self.serving and watchdog.is_blocked(worker):
                self.log.critical("No request of worker %s has moved for %s s: replaced", pid, watchdog.limit)
                self.dismiss(pid)

    def handle_hup(self) -> None:
        """Load settings and application anew, without the workers that serve."""
        self.reload.ask()

    def manage_workers(self) -> None:
        if self.reload.is_loading:
            self.reload.keep_number()
        else:
            super().manage_workers()

    def handle_death(self, pid: int, worker: Worker, reason: Failure | None) -> bool:
        return self.reload.has_lost(pid, worker, reason) or super().handle_death(pid, worker, reason)

    def handle_slow_load(self, reason: Failure) -> None:
        if self.reload.is_loading:
            self.reload.fail(reason)
        else:
            super().handle_slow_load(reason)

    def handle_usr1(self) -> None:
        """Open log files anew, in all workers, those from before a restart included."""
        if reopen.can_reopen(self.log):
            super().handle_usr1()
            self._predecessors.reopen_files()

    def handle_usr2(self) -> None:
        if self.systemd:
            self.log.error(
                "SIGUSR2 refused: systemd holds the listeners and would not know "
                "the new master. Use 'systemctl restart'"
            )
            return
        super().handle_usr2()

    def halt(self, reason: str | None = None, exit_status: int = 0) -> None:
        if reason is not None:
            self._leaves_mail = True
            self._announce_stop(self.trouble.censor(reason) if self.trouble else reason)
        super().halt(reason, exit_status)

    def stop(self, graceful: bool = True) -> None:
        """Let the workers drain, and wait for them; those that have been relayed are no longer ours."""
        self.reload.cancel()
        scope = self._forget_relayed()
        self._announce_stop(
            f"Restarting: the workers serve on in {scope}" if scope else status_line.stopping(self, graceful=graceful)
        )
        # What is carried is read by relayed workers, or by the generation that systemd starts.
        self.board.stopping = not scope and not self._leaves_mail
        self._drain_end = time.monotonic() + self.cfg.graceful_timeout
        super().stop(graceful)
        if self.board.stopping and not any(self._predecessors.workers()):
            self._empty_mailbox()

    def kill_workers(self, sig: int) -> None:
        """Send a signal to all. With SIGKILL a stop ends: workers have left by themselves when the drain time was
        over, or are about to, and say what they cut short."""
        deadline = time.monotonic() + OVERDUE
        while sig == signal.SIGKILL and self.WORKERS and time.monotonic() < deadline:
            self.reap_workers()
            time.sleep(BOOT_POLL)
        if sig == signal.SIGKILL and self.WORKERS:
            self.log.error("Workers %s have not left in time: killed", [*self.WORKERS])
        super().kill_workers(sig)

    def reap_workers(self) -> None:
        super().reap_workers()
        if self._stopping:
            self._report_drain()

    def handle_boot_failure(self, halt: HaltServer) -> None:
        if not self._stopping:
            super().handle_boot_failure(halt)

    def _report_drain(self) -> None:
        """While requests are in flight, and may be, ask for the time that they take, and tell how many there are."""
        if (self.in_flight or self.held) and time.monotonic() < self._drain_end and self._extend_timeout():
            self.manager.status(status_line.stopping(self))

    def _extend_timeout(self) -> bool:
        """Ask for more time, now and then, for what may take it; return whether that was done."""
        now = time.monotonic()
        if now < self._extend_at:
            return False
        self._extend_at = now + EXTENSION_INTERVAL
        self.manager.extend_timeout(EXTENSION)
        return True

    def _forget_relayed(self) -> str | None:
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

    def _bury_relayed(self, worker: RelayedWorker) -> None:
        """Call the user's hook for a worker whose own master left long ago."""
        try:
            self.cfg.child_exit(self, worker)
        except Exception:
            self.log.exception("The hook child_exit has failed for worker %s of an earlier generation", worker.pid)

    def _empty_mailbox(self) -> None:
        if self.mailbox is not None and (dropped := self.mailbox.drop_all()):
            self.log.warning("Mailbox: dropped what %s senders had left, with nobody to read it", dropped)

    def _announce_stop(self, text: str) -> None:
        if not self._stopping:
            self._stopping = True
            self.manager.stopping(text)

    def _take_listeners(self) -> None:
        self.LISTENERS, self.mailbox = listeners.take(self._names, self.cfg, self.log)
        self.systemd = True
        listeners.keep(self.LISTENERS, self.cfg, self.log)
