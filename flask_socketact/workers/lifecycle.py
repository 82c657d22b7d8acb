"""What our worker classes share: how a worker boots, drains, and tells the application of it."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

from gunicorn.workers.base import Worker

from flask_socketact import cgroup, current, events, holds, journal, log_files, pages, process, queues
from flask_socketact.errors import CountersError
from flask_socketact.mailbox import Mailbox
from flask_socketact.scoreboard import Field, Scoreboard, Slot

#: How often a worker gives a sign of life, in seconds.
HEARTBEAT = 1.0
#: How long an idle connection stays open in a drain, for a request that its client may have sent already. Seconds.
LINGER = 2.0
#: For so long after it has begun a worker measures what clients have waited. Seconds.
SETTLING = 10.0
#: How often a worker that drains looks at what is left, in seconds.
DRAIN_POLL = 0.05
#: A relayed worker leaves so much later than the drain time, if it does not leave by itself. Seconds.
OVERDUE = 1.0
#: How long after the death of its master a worker may be relayed: after WatchdogSec= it is ended first. Seconds.
RELAY_TIMEOUT = 2.0


def listener_name(listener: Any) -> str | None:
    """Return ``FileDescriptorName=`` of a listener; None when it is not systemd's."""
    return getattr(listener, "fdname", None)


class Lifecycle(Worker):
    """Mixed into gunicorn's worker classes, before them."""

    #: Set by the master before it forks.
    board: Scoreboard
    slot: Slot
    mailbox: Mailbox | None = None
    cgroup: str | None = None  #: control group of the service
    generation: str | None = None

    # gunicorn's:
    ppid: int
    max_requests: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.orphaned = False
        self._orphaned_since = 0.0
        self._reopens = False
        self._relayed = False
        self._succeeded = False  # the next generation has said that it is ready
        self._next_beat = 0.0
        self._told_ready = False  # applications know
        self._drain_began = 0.0
        self._drain_told = False
        self._settles_at = 0.0  # 0.0: it has not begun

    def init_process(self) -> None:
        self._managed = hasattr(self, "slot")
        if not self._managed:  # a master that is not ours
            self.board = Scoreboard()
            self.slot = self.board.take(1, self.cfg.threads)
            self.board.note_ready(1, time.monotonic())  # nobody else will
        self.slot[Field.PID] = os.getpid()
        current.generation = self.generation
        super().init_process()  # until nothing of a request is left, or the drain time is over
        self._end_drain()

    def _end_drain(self) -> None:
        """Wait for what the application holds, and say what has become of the drain."""
        self.begin_drain()
        deadline = self._drain_began + self.cfg.graceful_timeout
        while holds.current() and time.monotonic() < deadline:
            self.notify()
            self.beat()
            self.reopen_files()
            time.sleep(DRAIN_POLL)
        is_cut_short = bool(holds.current() or self.slot[Field.IN_FLIGHT])
        if is_cut_short:
            self._log_cut_short()
        self._tell(lambda application: application.drained(cut_short=is_cut_short))
        self._log_drain()

    def _log_cut_short(self) -> None:
        left = [str(held) for held in holds.current()]
        if requests := self.slot[Field.IN_FLIGHT]:
            left.append(f"{requests} requests")
        self.log.warning(
            "The drain time of %s s is over: leaving%s (pid: %s)",
            self.cfg.graceful_timeout,
            f", and cutting short {', '.join(left)}" if left else "",
            os.getpid(),
        )

    def _log_drain(self) -> None:
        if carried := self.slot[Field.CARRIED_OUT]:
            self.log.info(
                "Carried %s idle connections to other workers", carried, extra=events.CARRIED | {"CONNECTIONS": carried}
            )
        if not self.slot[Field.OPEN]:
            self.log.info("Drained, with nothing left (pid: %s)", os.getpid(), extra=events.DRAINED)

    def load_wsgi(self) -> None:
        """Load the application. One that leaves (``SystemExit``) while it is imported cannot boot:
        gunicorn would start it again and again."""
        process.server = process.Server(self.named_listeners(), self.board, self.slot, self.is_draining)
        try:
            pages.use()
        except CountersError as error:
            self.log.error("%s", error)
        try:
            super().load_wsgi()
        except SystemExit as error:
            if not self.alive:  # handle_exit
                raise
            raise RuntimeError(f"the application left with {error.code!r} while it was imported") from error
        journal.restore(self.log)
        journal.take_root()
        for application in list(process.applications):
            application.loaded()

    def named_listeners(self) -> list[tuple[str | None, Any]]:
        """Return the listeners with their names."""
        return [(listener_name(listener), listener) for listener in self.sockets]

    def beat(self) -> None:
        """Let applications do what is due, and know when the service is ready; called in each turn of the main loop."""
        now = time.monotonic()
        if now < self._next_beat:
            return
        self._next_beat = now + HEARTBEAT
        journal.restore(self.log)
        if not self._settles_at:
            self._settles_at = now + SETTLING
            self.slot[Field.ACCEPTING] = not self.slot[Field.DRAINING]
        self._tell(lambda application: application.beat())
        if not self._told_ready and self.board.ready >= self.slot[Field.GENERATION]:
            self._told_ready = True
            self._send(process.GENERATION_READY)

    def begin_drain(self) -> None:
        """Let applications know of the drain; called, perhaps again, when it has begun."""
        if not self._drain_told:
            self._drain_told = True
            self._drain_began = self._drain_began or time.monotonic()
            self._send(process.DRAIN_BEGUN)

    def _tell(self, tell: Callable[[process.Application], None]) -> None:
        for application in list(process.applications):
            try:
                tell(application)
            except Exception:
                self.log.exception("The application has failed to take a message of its server")

    def _send(self, signal: str) -> None:
        """Send a signal to applications in a thread: what they do then may take its time. A drain waits for its end."""
        if not any(application.hears(signal) for application in process.applications):
            return
        held = holds.take(f"receivers of {signal}")

        def run() -> None:
            try:
                self._tell(lambda application: application.send(signal))
            finally:
                holds.release(held)

        threading.Thread(target=run, name=signal, daemon=True).start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain; a worker that still loads the application and has nothing to finish leaves at once."""
        super().handle_exit(sig, frame)
        self._drain_began = self._drain_began or time.monotonic()
        self.slot.begin_drain()
        if not self.booted and not self.has_mail():
            sys.exit(0)

    def init_signals(self) -> None:
        """Listen to the relay, too. Programs that requests have started get its signals as well, and ignore them."""
        super().init_signals()
        signal.signal(signal.SIGURG, self.handle_urg)
        signal.signal(signal.SIGPWR, signal.SIG_IGN)  # WatchdogSignal=, which is for the master

    def handle_usr1(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 (a signal handler)
        """Open log files anew, soon: gunicorn's handler does so at once, perhaps in the middle of writing a line."""
        self._reopens = True

    def reopen_files(self) -> None:
        """Open log files anew, if somebody has asked for it; called in each turn of the main loop."""
        if self._reopens:
            self._reopens = False
            log_files.reopen(self.log)

    def handle_urg(self, sig: int, frame: FrameType | None) -> None:
        """The next generation is ready: drain, and carry to it."""
        if self.is_relayed() and not self._succeeded:
            self._succeeded = True
            self._drain_in_time(sig, frame)

    def handle_winch(self, sig: int, frame: FrameType | None) -> None:
        """The scope stops, and so does the service: drain, and from now on carry nothing."""
        if self.is_relayed():
            self.board.stopping = True
            if not self._succeeded:
                self._drain_in_time(sig, frame)

    def _drain_in_time(self, sig: int, frame: FrameType | None) -> None:
        """Drain without a master that would end what takes too long."""
        signal.signal(signal.SIGALRM, self.handle_overdue)
        signal.setitimer(signal.ITIMER_REAL, self.cfg.graceful_timeout + OVERDUE)
        self.handle_exit(sig, frame)

    def handle_overdue(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 (a signal handler)
        self._log_cut_short()
        os._exit(0)

    def is_relayed(self) -> bool:
        """Whether the relay has moved this worker out of the service, so that it serves on while that restarts."""
        if not self._relayed and self.cgroup is not None:
            self._relayed = cgroup.of(os.getpid()) not in (self.cgroup, None)  # None: no descriptor left to look
        return self._relayed

    def end_by_requests(self) -> bool:
        """Whether the worker is to leave now that it has answered ``max_requests``; a master of ours lets it drain when
        another has taken its place, and a relayed worker has no master to replace it."""
        self.max_requests = sys.maxsize  # gunicorn's word for never
        if self._managed and not self.slot[Field.WORN]:
            self.slot[Field.WORN] = 1
            self.log.info("max_requests answered: to be replaced (pid: %s)", os.getpid())
        return not self._managed

    def has_successor(self) -> bool:
        """Whether somebody reads the mailbox when this worker has left."""
        if self.board.stopping:
            return False
        if not self.is_relayed() or self._succeeded:
            return True  # a sibling, or the next generation, which systemd starts also when the master has died
        return any(not sibling[Field.DRAINING] for sibling in self.board.taken())

    def has_mail(self) -> bool:
        """Whether connections wait for this worker, or another, to take them from the mailbox."""
        return False

    def is_draining(self) -> bool:
        """Whether this worker takes nothing new and leaves when it has nothing left."""
        return not self.alive

    def is_parent_alive(self) -> bool:
        """Whether the master is there, or has left because this worker was relayed.
        Otherwise the drain begins, as after SIGTERM."""
        if not self.orphaned and self.ppid != os.getppid():
            self._orphaned_since = self._orphaned_since or time.monotonic()
            if self.is_relayed():
                self.ppid = os.getppid()  # the service manager's, from now on
                self.log.info("Serving on while the service restarts (pid: %s)", os.getpid(), extra=events.RELAYED)
            elif time.monotonic() - self._orphaned_since > RELAY_TIMEOUT:
                self.orphaned = True
                self.alive = False
                self.log.info("The master has died, draining: %s", self)
        return not self.orphaned

    def observe(self, environ: dict[str, Any], response: Any, began: float) -> None:
        """Tell who has asked for it that an answer has been sent, or has failed. It began at `began`
        (CLOCK_MONOTONIC, seconds); gunicorn's `response` is None when there was none."""
        observe = environ.get(current.OBSERVE)
        if observe is None:
            return
        try:
            observe(environ, response and response.status, time.monotonic() - began)
        except Exception:
            self.log.exception("An answer was not counted")

    def note_wait(self, connection: Any) -> None:
        """Note how long the first request of a connection had waited: what a restart has cost, if this worker has just
        begun. TCP alone tells."""
        if not self._settles_at or time.monotonic() < self._settles_at:
            waited = int(queues.seconds_since_data(connection) * 1e9)
            self.slot[Field.WAITED] = max(self.slot[Field.WAITED], waited)

    def describe_request(self, environ: dict[str, Any], listener: str | None, request: Any) -> None:
        """Tell the application by which listener a request came (only under activation), whether it is its connection's
        first, and of the drain; and what is logged, of the request."""
        if listener is not None:
            environ[current.LISTENER] = listener
        environ["socketact.draining"] = self.is_draining
        environ[current.FIRST] = request.req_number == 1
        environ[current.TRUSTS_PEER] = request._peer_is_trusted_proxy
        current.enter(environ)
