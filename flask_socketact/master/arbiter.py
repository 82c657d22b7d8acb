"""gunicorn's arbiter as a service of systemd: its listeners come from systemd, and READY=1 is true."""

from __future__ import annotations

import os
import signal
import time

import gunicorn.app.base
from gunicorn.app.base import BaseApplication
from gunicorn.errors import HaltServer
from gunicorn.workers.base import Worker

from flask_socketact import env
from flask_socketact.errors import SettingsError
from flask_socketact.handover.old_generations import OldGenerations, RelayedWorker
from flask_socketact.handover.steps import Step, reached
from flask_socketact.logs import reopen
from flask_socketact.master import idle_exit, late_relay, listeners, status_line
from flask_socketact.master.failures import Failure
from flask_socketact.master.notifier import Manager
from flask_socketact.master.pool import Pool
from flask_socketact.master.reload import Reloads
from flask_socketact.master.service_state import Phase, ServiceState
from flask_socketact.master.watchdog import Watchdog
from flask_socketact.shared.service_counters import ServiceCounters, find_folder
from flask_socketact.systemd import activation, message_ids, notify

#: How often the master checks its workers. Seconds.
TURN = 1.0
#: The same while workers load the application. Seconds.
BOOT_POLL = 0.05
#: In a stop, a worker that has not exited this long after the drain time is killed. Seconds.
OVERDUE = 2.0
#: When a load of the application has taken this long, systemd is asked for more time. Seconds.
LONG = 5.0


def install() -> None:
    """Let the gunicorn command run our arbiter instead of its own.

    gunicorn has no setting for the arbiter's class, and takes one function for each server hook: a hook in the user's
    configuration would silently replace ours. tests/process fails when gunicorn takes its arbiter from elsewhere.
    """
    gunicorn.app.base.Arbiter = Arbiter


class Arbiter(Pool):
    """The master of a service. gunicorn's loop calls `wait_for_signals` in each turn, and that calls `tick`; most other
    methods extend gunicorn's."""

    def __init__(self, app: BaseApplication) -> None:
        self.reloads = Reloads(self)
        # First, before a file that we open can take the number of a descriptor that is missing.
        self._names = activation.listen_fds()
        if self._names:
            activation.unset_environment(os.environ)
        address, seconds = notify.take_address(os.environ), notify.take_watchdog(os.environ)
        self._watchdog = Watchdog(seconds) if seconds else None
        self._idle_exit = idle_exit.from_environment() if self._names else None
        watched, idle = self._watchdog, self._idle_exit
        #: Longest turn of the loop, in seconds.
        self._turn = min(TURN, watched.interval if watched else TURN, idle.seconds if idle else TURN)
        self.state = ServiceState()
        self._keeps_mail = False  # in a stop: systemd starts the service again, which reads the mailbox
        self._drain_end = 0.0
        super().__init__(app)
        self.manager = Manager(address, self.log)
        self._counters = ServiceCounters(self.log)
        if self.board_error:
            self.log.warning("%s", self.board_error)
        self.old = OldGenerations(self.cgroup, find_folder(), self.log, on_exit=self._call_child_exit)

    def setup(self, app: BaseApplication) -> None:
        super().setup(app)
        if not self.hands_over:
            self.log.warning(
                "worker_class = %s is not flask_socketact's: its workers close connections in a restart, and new "
                "connections may reach the old release. See docs/workers.md",
                self.cfg.worker_class_str,
            )
        if self.LISTENERS and self.systemd:
            listeners.keep(self.LISTENERS, self.cfg, self.log)

    def start(self) -> None:
        if self.num_workers < 1:
            raise SettingsError(f"workers = {self.num_workers} would serve no request: set workers or WEB_CONCURRENCY")
        if self._names:
            self._take_listeners()
        self.mailbox = self.mailbox or listeners.create_mailbox(self.log)
        self.old.look()
        reached(Step.MASTER_STARTS)
        super().start()
        if not env.may_overlap(os.environ):
            self._wait_for_old()
        self._counters.count("starts")
        if not self.systemd:
            self.log.warning(
                "No listeners from systemd (%s): gunicorn has bound its own, and refuses connections during a restart",
                activation.why_none(),
            )
        how = "Loading the application once for" if self.cfg.preload_app else "Loading the application in"
        text = f"{how} {self.num_workers} workers, for at most {self.load_timeout:g} s"
        self.log.info(text, extra=message_ids.STARTED)
        self.manager.status(text)

    def _wait_for_old(self) -> None:
        """With :data:`env.OVERLAP` = no, wait until old workers have exited; the setting may be newer than they are."""
        while old := self.old.workers():
            self.manager.status(f"Waiting until {len(old)} old workers have exited: {env.OVERLAP}=no")
            self.old.retire(self.cfg.graceful_timeout)
            self.manager.ask_for_time()
            time.sleep(BOOT_POLL)
            self.old.look()

    def wait_for_signals(self, timeout: float | None = 1.0) -> list[int]:  # noqa: ARG002 (gunicorn's is a second)
        """Wait for signals as gunicorn does in each turn of its loop, then do what is ours."""
        is_waiting = self.is_booting or not self.state.has_started or self.reloads.is_loading or self.reloads.is_due
        signals: list[int] = super().wait_for_signals(BOOT_POLL if is_waiting else self._turn)
        self.tick()
        return signals

    def tick(self) -> None:
        """Do what is due in each turn. Then gunicorn handles signals, and calls `murder_workers`, `manage_workers`."""
        self._look_at_workers()
        self.old.look()
        self.board.is_deaf = not self.hands_over
        if self.board.is_deaf:
            self._empty_mailbox()  # no worker reads it
        if self.state.is_loading and time.monotonic() - self.reloads.loading_since > LONG:
            self.manager.ask_for_time()
        if self.booted:
            self.report_state()
            self.reloads.advance()
            if self.reloads.is_due:
                self.reloads.begin()
        if self.state.has_started:
            self.old.retire(self.cfg.graceful_timeout)
            if self._idle_exit:
                self._idle_exit.look(self)

    def _look_at_workers(self) -> None:
        """Read which workers have begun to accept."""
        self.look_at_loader()
        self.reports.collect(self.WORKERS)
        if len(self.reports.accepting) >= self.num_workers:  # those that drain by now count: they have accepted
            self.reloads.load_time = self.reloads.load_time or time.monotonic() - self.reloads.loading_since
            self.booted = True
        if self.has_enough:
            self.shortage = None

    def exit_idle(self, seconds: float) -> None:
        """Stop with success after `seconds` without a connection. A new one is served, or starts the service again."""
        self.log.info("No connection for %g s: exiting, the next one starts the service", seconds)
        self._keeps_mail = True
        self._announce_stop(f"Idle for {seconds:g} s: the next connection starts the service")
        raise StopIteration  # as gunicorn's handler of SIGTERM does

    def report_state(self) -> None:
        """Tell systemd that new workers load, or that the service is ready; again, until that was sent."""
        due = self.state.due(is_reloading=self.reloads.is_loading)
        if due is Phase.RELOADING:
            if self.manager.reloading(f"Reloading: generation {self.generation} loads the application"):
                self.state.note(Phase.RELOADING)
        elif due is Phase.READY:
            self._report_ready()
        elif not self.reloads.is_loading:
            self.manager.status(status_line.serving(self))
        if self.state.phase is Phase.READY and self.manager.has_acted:
            self.state.has_started = True

    def _report_ready(self) -> None:
        is_first = not self.state.was_ready
        if is_first and not self.board.is_deaf:
            reached(Step.MASTER_SUPERSEDES)
            self.old.supersede()
        text = status_line.serving(self)
        reached(Step.MASTER_IS_READY)
        is_known = self.manager.ready(text)
        self.board.note_ready(self.generation, self.reloads.loading_since)
        if not is_known:
            return
        self.state.note(Phase.READY)
        if is_first:
            self.log.info("Ready: %s", text, extra=message_ids.READY)
            self._counters.note(boot_seconds=self.reloads.load_time)
            self.manager.ask_for_barrier()

    def note_reload(self, *, succeeded: bool) -> None:
        self._counters.count("reloads" if succeeded else "failed_reloads")

    def murder_workers(self) -> None:
        """Replace stuck workers; while others make progress, tell systemd so (``WatchdogSec=``)."""
        if self._watchdog and self.booted:
            self._watchdog.look(self)
        super().murder_workers()

    def handle_hup(self) -> None:
        """Reload settings and application in new workers; the old ones serve meanwhile."""
        self.reloads.ask()

    def manage_workers(self) -> None:
        if self.reloads.is_loading:
            self.reloads.keep_number()
        else:
            super().manage_workers()

    def worker_exited(self, pid: int, worker: Worker, reason: Failure | None) -> bool:
        return self.reloads.has_lost(pid, worker, reason) or super().worker_exited(pid, worker, reason)

    def handle_failed_load(self, reason: Failure) -> None:
        if not self.reloads.fail(reason):
            super().handle_failed_load(reason)

    def handle_usr1(self) -> None:
        """Reopen log files, in all workers, those of old generations included."""
        if reopen.can_reopen(self.log):
            super().handle_usr1()
            self.old.reopen_files()

    def handle_usr2(self) -> None:
        if self.systemd:
            self.log.error("SIGUSR2 refused: systemd would not know the new master. Use 'systemctl restart'")
            return
        super().handle_usr2()

    def halt(self, reason: str | None = None, exit_status: int = 0) -> None:
        if reason is not None:
            self._keeps_mail = True
            self._announce_stop(self.shortage.censor(reason) if self.shortage else reason)
        super().halt(reason, exit_status)

    def stop(self, graceful: bool = True) -> None:
        """Let the workers drain, and wait until they have exited; relayed workers are no longer ours."""
        reached(Step.MASTER_STOPS)
        self.reloads.cancel()
        self.end_loader()
        scope = self.forget_relayed()
        if not scope and late_relay.is_needed(self):
            self._keeps_mail = True
            scope = late_relay.move_workers(self) if self.booted else None
        reached(Step.MASTER_FORGETS)
        restarting = f"Restarting: the old workers keep serving in {scope}"
        self._announce_stop(restarting if scope else status_line.stopping(self, graceful=graceful))
        # Otherwise relayed workers, or the generation that systemd starts, will read what is sent to the mailbox.
        self.board.stopping = not scope and not self._keeps_mail
        self._drain_end = time.monotonic() + self.cfg.graceful_timeout
        super().stop(graceful)
        if self.board.stopping and not any(self.old.workers()):
            self._empty_mailbox()

    def kill_workers(self, sig: int) -> None:
        """Send a signal to all workers. SIGKILL is gunicorn's end of a stop, by the wall clock, which may have jumped:
        wait until a little after the drain time, as workers exit by themselves, and log which requests they cut off."""
        if sig == signal.SIGQUIT:  # a quick stop
            self._drain_end = 0.0
        deadline = max(time.monotonic(), self._drain_end) + OVERDUE
        while sig == signal.SIGKILL and self.WORKERS and time.monotonic() < deadline:
            self.reap_workers()
            time.sleep(BOOT_POLL)
        if sig == signal.SIGKILL and self.WORKERS:
            self.log.error("Workers %s killed: they have not exited in the drain time", [*self.WORKERS])
        super().kill_workers(sig)

    def reap_workers(self) -> None:
        super().reap_workers()
        if self.state.phase is Phase.STOPPING:
            self._report_drain()
            self.remind_loading()

    def handle_boot_failure(self, halt: HaltServer) -> None:
        if self.state.phase is not Phase.STOPPING:
            super().handle_boot_failure(halt)

    def _report_drain(self) -> None:
        """While requests are in flight in a stop, ask systemd for more time, and report their number."""
        if (self.in_flight or self.held) and time.monotonic() < self._drain_end and self.manager.ask_for_time():
            self.manager.status(status_line.stopping(self))

    def _call_child_exit(self, worker: RelayedWorker) -> None:
        """Call the user's hook for a worker whose own master has exited before."""
        try:
            self.cfg.child_exit(self, worker)
        except Exception:
            self.log.exception("The hook child_exit failed for worker %s of an old generation", worker.pid)

    def _empty_mailbox(self) -> None:
        if self.mailbox is not None and (dropped := self.mailbox.drop_all()):
            self.log.warning("Mailbox: closed the connections that %s senders had sent, as no worker reads it", dropped)

    def _announce_stop(self, text: str) -> None:
        if self.state.phase is not Phase.STOPPING:
            self.state.note(Phase.STOPPING)
            self.manager.stopping(text)

    def _take_listeners(self) -> None:
        self.LISTENERS, self.mailbox = listeners.take(self._names, self.cfg, self.log)
        self.systemd = True
        listeners.keep(self.LISTENERS, self.cfg, self.log)
