"""What our worker classes share: how a worker boots, what it hears, and how it leaves."""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import time
from types import FrameType
from typing import Any

from gunicorn.workers.base import Worker

from flask_socketact import env
from flask_socketact.bridge import keys, request_context, server_info
from flask_socketact.errors import CountersError
from flask_socketact.handover import protocol
from flask_socketact.handover.mailbox import Mailbox
from flask_socketact.linux import socket_queues
from flask_socketact.linux.descriptors import STDERR
from flask_socketact.logs import logger, reopen, root
from flask_socketact.shared import metric_files
from flask_socketact.shared.scoreboard import Field, Scoreboard, Slot
from flask_socketact.workers.applications import Applications
from flask_socketact.workers.carrier import Carrier
from flask_socketact.workers.child import Forks
from flask_socketact.workers.drain import DRAIN_POLL, Drain
from flask_socketact.workers.relayed import Relayed
from flask_socketact.workers.signal_handlers import SignalHandlers

#: How often a worker gives a sign of life, in seconds.
HEARTBEAT = 1.0
#: For so long after it has begun a worker measures what clients have waited. Seconds.
MEASURE_WAITS_FOR = 10.0
#: When a worker's loop fails more often than this within a second, it cannot go on.
MAX_FAILURES = 8


def listener_name(listener: Any) -> str | None:
    """Return ``FileDescriptorName=`` of a listener; None when it is not systemd's."""
    return getattr(listener, "fdname", None)


class BaseWorker(Worker):
    """Before gunicorn's classes in the bases of ours."""

    #: Set by the master before it forks.
    board: Scoreboard
    slot: Slot
    mailbox: Mailbox | None = None
    cgroup: str | None = None  #: control group of the service
    generation: str | None = None

    hands_over = True  #: ... which the master sees that it is one of ours by

    handled_signals = (*Worker.SIGNALS, protocol.DRAIN)

    # gunicorn's:
    ppid: int
    max_requests: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.applications = Applications(self.log)
        self.carrier = Carrier(self)
        self.drain = Drain(self)
        self.forks = Forks(self)
        self.handlers = SignalHandlers(
            {
                signal.SIGTERM: self.handle_exit,
                protocol.DRAIN: self.handle_urg,
                protocol.STOP: self.handle_winch,
            },
            self.log,
        )
        self.relayed = Relayed(self)
        self.is_child = False  #: this is no worker, but a process that its application has forked
        self.is_told_to_quit = False  #: by SIGQUIT or SIGABRT, which wait for nothing
        self._must_reopen = False  # log files
        self._errors: Any = None  # ``wsgi.errors``, where gunicorn's would fail with a stream that is closed
        self._next_beat = 0.0
        self._knows_ready = False  # applications know
        self._measures_until = 0.0  # 0.0: it has not begun
        self._failures: list[float] = []  # of the loop itself, within the last second

    # How it boots.

    def init_process(self) -> None:
        self._is_managed = hasattr(self, "slot")
        if not self._is_managed:  # a master that is not ours
            self.board = Scoreboard()
            self.slot = self.board.take(1, self.cfg.threads)
            self.board.note_ready(1, time.monotonic())  # nobody else will
        self.slot[Field.PID] = os.getpid()
        request_context.generation = self.generation
        self.forks.watch()
        super().init_process()  # until nothing of a request is left, or the drain time is over
        self.drain.finish()

    def load_wsgi(self) -> None:
        """Load the application. One that leaves (``SystemExit``) while it is imported cannot boot:
        gunicorn would start it again and again."""
        server_info.server = server_info.Server(self.named_listeners(), self.board, self.slot, self.is_draining)
        try:
            metric_files.use()
        except CountersError as error:
            self.log.error("%s", error)
        # Just before the master kills it: what keeps it, in C perhaps, holds a handler back.
        faulthandler.dump_traceback_later(env.load_timeout(), file=STDERR)
        try:
            super().load_wsgi()
        except SystemExit as error:
            if not self.alive or self.slot[Field.DRAINING]:  # handle_exit, or a handler of the application's
                raise
            raise RuntimeError(f"the application left with {error.code!r} while it was imported") from error
        finally:
            faulthandler.cancel_dump_traceback_later()
        self.handlers.restore()
        logger.restore(self.log)
        root.install_root_handler()
        self._errors = logger.errors_of(self.log)
        for application in list(server_info.applications):
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
        logger.restore(self.log)
        if not self._measures_until:
            self._measures_until = now + MEASURE_WAITS_FOR
            self.slot[Field.ACCEPTING] = not self.slot[Field.DRAINING]
        self.handlers.restore()
        if self.relayed.stop_signaled and self.relayed.confirm_stop():
            self._drain_with_scope()
        if self.alive and self.slot[Field.DRAINING]:  # the master has said so, and its signal was lost
            self.handle_exit(signal.SIGTERM, None)
        self.applications.for_each(lambda application: application.beat())
        if not self._knows_ready and self.board.ready >= self.slot[Field.GENERATION]:
            self._knows_ready = True
            self.applications.send(server_info.GENERATION_READY)

    def note_failure(self) -> None:
        """Go on after the error that is being handled, which has come out of the main thread's loop: a signal handler
        of the application's has raised it. Drain, if there are many."""
        if self.is_told_to_quit or self.is_child:
            raise  # noqa: PLE0704 (called while it is handled)
        self.log.exception("Unexpected error in the worker's main thread")
        if self.fails_often():
            self.alive = False
        time.sleep(DRAIN_POLL)  # what has failed may fail again at once

    def fails_often(self) -> bool:
        """Count a failure of the worker's loop; return whether there are so many that it cannot go on."""
        now = time.monotonic()
        self._failures = [*(then for then in self._failures if now - then < 1), now]
        return len(self._failures) > MAX_FAILURES

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain; a worker that still loads the application and has nothing to finish leaves at once. A relayed worker
        has no master any more: the next one tells it to go, or an administrator."""
        super().handle_exit(sig, frame)
        self.relayed.next_is_ready = self.relayed.next_is_ready or self.relayed.is_moved()
        self.drain.begin()
        self.slot.begin_drain()
        if not self.booted and not self.carrier.has_mail():
            sys.exit(0)

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """Leave at once."""
        self.is_told_to_quit = True
        super().handle_quit(sig, frame)

    def handle_abort(self, sig: int, frame: FrameType | None) -> None:
        """Leave at once: the master has waited for a sign of life."""
        self.is_told_to_quit = True
        super().handle_abort(sig, frame)

    def init_signals(self) -> None:
        """Listen to the relay, too. Programs that requests have started get its signals as well, and ignore them."""
        super().init_signals()
        signal.signal(protocol.DRAIN, self.handle_urg)
        # Not at once, as gunicorn has it: the master, to which Ctrl-C goes, too, tells its workers to quit.
        signal.signal(signal.SIGINT, self.handle_exit)
        signal.signal(signal.SIGPWR, signal.SIG_IGN)  # WatchdogSignal=, which is for the master

    def handle_usr1(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 (a signal handler)
        """Open log files anew, soon: gunicorn's handler does so at once, perhaps in the middle of writing a line."""
        self._must_reopen = True

    def reopen_files(self) -> None:
        """Open log files anew, if somebody has asked for it; called in each turn of the main loop."""
        if self._must_reopen:
            self._must_reopen = False
            reopen.reopen(self.log)

    def handle_urg(self, sig: int, frame: FrameType | None) -> None:
        """The next generation is ready: drain, and carry to it."""
        if self.relayed.is_moved() and not self.relayed.next_is_ready:
            self.handle_exit(sig, frame)

    def handle_winch(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 (a signal handler)
        """The scope stops, and so does the service; soon it is looked into whether that is so."""
        if self.relayed.is_moved():
            self.relayed.stop_signaled = True
            self._next_beat = 0.0

    def _drain_with_scope(self) -> None:
        """Drain, and from now on carry nothing."""
        self.board.stopping = True
        if not self.relayed.next_is_ready:
            self.handle_exit(protocol.STOP, None)

    def end_at_max_requests(self) -> bool:
        """Whether the worker is to leave now that it has answered ``max_requests``; a master of ours lets it drain when
        another has taken its place, and a relayed worker has no master to replace it."""
        self.max_requests = sys.maxsize  # gunicorn's word for never
        if self._is_managed and not self.slot[Field.RECYCLE]:
            self.slot[Field.RECYCLE] = 1
            self.log.info("max_requests answered: to be replaced (pid: %s)", os.getpid())
        return not self._is_managed

    def close_in_child(self) -> None:
        """Close the copies of what the worker serves on, in a process that the application has forked."""
        for listener in self.sockets:
            listener.close()

    def is_draining(self) -> bool:
        """Whether this worker takes nothing new and leaves when it has nothing left."""
        return not self.alive

    def observe(self, environ: dict[str, Any], status: str | None, began: float) -> None:
        """Tell an application that has asked for it that a response was sent, or has failed (`status` is None). The
        request began at `began` (CLOCK_MONOTONIC, seconds)."""
        observe = environ.get(keys.OBSERVE)
        if observe is None:
            return
        try:
            observe(environ, status, time.monotonic() - began)
        except Exception:
            self.log.exception("A response was not counted")

    def note_wait(self, connection: Any) -> None:
        """Note how long the first request of a connection had waited: what a restart has cost, if this worker has just
        begun. TCP alone tells."""
        if not self._measures_until or time.monotonic() < self._measures_until:
            waited = int(socket_queues.seconds_since_data(connection) * 1e9)
            self.slot[Field.WAITED] = max(self.slot[Field.WAITED], waited)

    def describe_request(self, environ: dict[str, Any], listener: str | None, request: Any) -> None:
        """Tell the application by which listener a request came (only under activation), whether it is its connection's
        first, and of the drain; and what is logged, of the request."""
        if listener is not None:
            environ[keys.LISTENER] = listener
        environ[keys.DRAINING] = self.is_draining
        environ[keys.FIRST] = request.req_number == 1
        environ[keys.TRUSTS_PEER] = request._peer_is_trusted_proxy
        if self._errors is not None:
            environ["wsgi.errors"] = self._errors
        request_context.enter(environ)
