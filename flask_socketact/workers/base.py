"""The base of all worker classes: boot, signals, heartbeat, exit."""

from __future__ import annotations

import gc
import os
import signal
import sys
import time
from types import FrameType
from typing import Any

from gunicorn.http.errors import InvalidProxyHeader, InvalidProxyLine
from gunicorn.workers.base import Worker

from flask_socketact.bridge import keys, request_context, server_info
from flask_socketact.bridge.loading import loading
from flask_socketact.handover import protocol
from flask_socketact.handover.mailbox import Mailbox
from flask_socketact.handover.steps import Step, reached
from flask_socketact.linux import socket_queues
from flask_socketact.logs import logger, reopen, root, sandbox_errors
from flask_socketact.shared.scoreboard import Scoreboard
from flask_socketact.shared.slot import Field, Slot
from flask_socketact.workers.applications import Applications
from flask_socketact.workers.carrier import Carrier
from flask_socketact.workers.child import ForkHooks
from flask_socketact.workers.drain import DRAIN_POLL, Drain
from flask_socketact.workers.relayed import Relayed
from flask_socketact.workers.signal_handlers import SignalHandlers

#: How often a worker sends a heartbeat to the master, in seconds; more often if ``timeout`` is shorter than twice that.
HEARTBEAT = 1.0
#: How long a new worker measures the time that clients have waited for it, in seconds.
MEASURE_WAITS_FOR = 10.0
#: A worker whose loop fails more often than this within a second drains.
MAX_FAILURES = 8


def listener_name(listener: Any) -> str | None:
    """Return ``FileDescriptorName=`` of a listener; None if it is not from systemd."""
    return getattr(listener, "fdname", None)


class BaseWorker(Worker):
    """Mixin for gunicorn's worker classes; it comes before them in the bases."""

    #: Set by the master before it forks.
    board: Scoreboard
    slot: Slot
    mailbox: Mailbox | None = None
    cgroup: str | None = None  #: control group of the service
    generation: str | None = None

    hands_over = True  #: marks a class that uses the mailbox, for the master

    handled_signals = (*Worker.SIGNALS, protocol.DRAIN)

    # Set by gunicorn:
    ppid: int
    max_requests: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.heartbeat = min(HEARTBEAT, self.timeout or HEARTBEAT)  # gunicorn's attribute is half of the setting
        self.applications = Applications(self.log)
        self.carrier = Carrier(self)
        self.drain = Drain(self)
        self.fork_hooks = ForkHooks(self)
        self.handlers = SignalHandlers(
            {
                signal.SIGTERM: self.handle_exit,
                protocol.DRAIN: self.handle_urg,
                protocol.STOP: self.handle_winch,
            },
            self.log,
        )
        self.relayed = Relayed(self)
        self.is_child = False  #: not a worker any more, but a process that its application has forked
        self.is_told_to_quit = False  #: SIGQUIT or SIGABRT has come: exit at once
        self._must_reopen = False  # log files, after SIGUSR1
        self._errors: Any = None  # ``wsgi.errors``; gunicorn's own raises when sys.stderr is closed
        self._next_beat = 0.0
        self._announced_ready = False  # GENERATION_READY was sent
        self._measures_until = 0.0  # CLOCK_MONOTONIC, seconds; 0.0: before the first beat
        self._failures: list[float] = []  # times of failures of the loop within the last second

    # Boot.

    def init_process(self) -> None:
        reached(Step.WORKER_STARTS)
        self._is_managed = hasattr(self, "slot")
        if not self._is_managed:  # gunicorn's own master
            self.board = Scoreboard()
            self.slot = self.board.take(1, self.cfg.threads)
            self.board.note_ready(1, time.monotonic())  # such a master does not
        self.slot[Field.PID] = os.getpid()
        request_context.generation = self.generation
        self.fork_hooks.watch()
        try:
            super().init_process()  # returns when all requests are done, or the drain time has expired
        except BaseException:
            if not self.is_child:
                self.drain.limit_threads()
            raise
        self.drain.finish()

    def load_wsgi(self) -> None:
        """Load the application, or use what a loader has loaded."""
        server = server_info.Server(self.named_listeners(), self.board, self.slot, self.is_draining, self.begin_stream)
        sandbox_errors.watch(self.log)
        reached(Step.WORKER_LOADS)
        # By handle_exit(), or a handler of the application.
        with loading(server, self.log, is_told_to_exit=lambda: not self.alive or bool(self.slot[Field.DRAINING])):
            super().load_wsgi()
        reached(Step.WORKER_HAS_LOADED)
        self.handlers.restore()
        logger.restore(self.log)
        root.install_root_handler()
        self._errors = logger.errors_of(self.log)
        for application in list(server_info.applications):
            application.loaded()
        gc.collect()
        gc.freeze()  # otherwise it looks at all that was loaded again some seconds later, while clients wait

    def named_listeners(self) -> list[tuple[str | None, Any]]:
        """Return the listeners with their names."""
        return [(listener_name(listener), listener) for listener in self.sockets]

    def beat(self) -> None:
        """Do what is due every second. Called in each turn of the main loop."""
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
        if self.alive and self.slot[Field.DRAINING]:  # the master has set it, and its signal was lost
            self.handle_exit(signal.SIGTERM, None)
        self.applications.for_each(lambda application: application.beat())
        if not self._announced_ready and self.board.ready >= self.slot[Field.GENERATION]:
            self._announced_ready = True
            self.applications.send(server_info.GENERATION_READY)

    def note_failure(self) -> None:
        """Log the current exception, which has left the main thread's loop, and continue; drain after many of them.

        A signal handler of the application can raise such an exception.
        """
        if self.is_told_to_quit or self.is_child:
            raise  # noqa: PLE0704 (called in an except clause)
        self.log.exception("Unexpected error in the worker's main thread")
        if self.fails_often():
            self.alive = False
        time.sleep(DRAIN_POLL)  # it may fail again at once

    def fails_often(self) -> bool:
        """Count a failure of the worker's loop; return whether there were too many to continue."""
        now = time.monotonic()
        self._failures = [*(then for then in self._failures if now - then < 1), now]
        return len(self._failures) > MAX_FAILURES

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain (SIGTERM). A worker that still loads the application exits at once, unless mail waits for it.

        A relayed worker gets the signal from the next generation's master, or from an administrator.
        """
        reached(Step.WORKER_DRAINS)
        super().handle_exit(sig, frame)
        self.relayed.may_hand_over = True
        self.drain.begin()
        self.slot.begin_drain()
        if not self.booted and not self.carrier.has_mail():
            sys.exit(0)

    def handle_quit(self, sig: int, frame: FrameType | None) -> None:
        """Exit at once (SIGQUIT)."""
        self.is_told_to_quit = True
        super().handle_quit(sig, frame)

    def handle_abort(self, sig: int, frame: FrameType | None) -> None:
        """Exit at once (SIGABRT): the master has missed the heartbeat."""
        self.is_told_to_quit = True
        super().handle_abort(sig, frame)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """As gunicorn's, but an invalid PROXY header of version 2 gets 400, as one of version 1 does."""
        if isinstance(exc, InvalidProxyHeader):
            exc = InvalidProxyLine(exc.msg)
        super().handle_error(req, client, addr, exc)

    def init_signals(self) -> None:
        """Handle the relay's signals, too. Child processes of requests get them as well, and ignore them by default."""
        super().init_signals()
        signal.signal(protocol.DRAIN, self.handle_urg)
        # gunicorn's worker exits at once. With Ctrl-C the master gets the signal, too, and stops its workers.
        signal.signal(signal.SIGINT, self.handle_exit)
        signal.signal(signal.SIGPWR, signal.SIG_IGN)  # WatchdogSignal=, meant for the master

    def handle_usr1(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 (a signal handler)
        """Reopen log files soon (SIGUSR1). gunicorn's handler does it at once, maybe while a line is being written."""
        self._must_reopen = True

    def reopen_files(self) -> None:
        """Reopen log files after SIGUSR1. Called in each turn of the main loop."""
        if self._must_reopen:
            self._must_reopen = False
            reopen.reopen(self.log)

    def handle_urg(self, sig: int, frame: FrameType | None) -> None:
        """Drain, and hand connections over (SIGURG): the next generation is ready. Only for a relayed worker.

        An application or a library can send this signal, too: without the next master's note it does nothing.
        """
        if self.relayed.is_moved() and not self.relayed.may_hand_over and self.board.is_retired:
            self.handle_exit(sig, frame)

    def handle_winch(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 (a signal handler)
        """Check soon whether the scope, and so the service, is stopping (SIGWINCH). Only for a relayed worker."""
        if self.relayed.is_moved():
            self.relayed.stop_signaled = True
            self._next_beat = 0.0

    def _drain_with_scope(self) -> None:
        """Drain without handing connections over: the service is stopping, too."""
        self.board.stopping = True
        if not self.relayed.may_hand_over:
            self.handle_exit(protocol.STOP, None)

    def end_at_max_requests(self) -> bool:
        """Mark the worker as due for recycling after ``max_requests``; return whether it must exit by itself.

        Our master starts a replacement first, and then lets this worker drain. A relayed worker is not replaced.
        """
        self.max_requests = sys.maxsize  # gunicorn's value for "never"
        if self._is_managed and not self.slot[Field.RECYCLE]:
            self.slot[Field.RECYCLE] = 1
            self.log.info("Served max_requests: this worker is due for recycling (pid: %s)", os.getpid())
        return not self._is_managed

    def close_in_child(self) -> None:
        """Close our copies of listeners and connections in a process that the application has forked."""
        for listener in self.sockets:
            listener.close()

    def begin_stream(self) -> bool:
        """The current request may take hours; return whether there is room for it. Called by the application."""
        return True

    def is_draining(self) -> bool:
        """Return whether this worker drains."""
        return not self.alive

    def observe(self, environ: dict[str, Any], status: str | None, began: float) -> None:
        """Report a finished request to the application, if it has set :data:`keys.OBSERVE`.

        `status` is None if the request failed. The request began at `began` (CLOCK_MONOTONIC, seconds).
        """
        observe = environ.get(keys.OBSERVE)
        if observe is None:
            return
        try:
            observe(environ, status, time.monotonic() - began)
        except Exception:
            self.log.exception("A response was not counted in the metrics")

    def note_wait(self, connection: Any) -> None:
        """Note how long the first request of a TCP connection has waited, in the first seconds of this worker.

        This is what a restart costs.
        """
        if not self._measures_until or time.monotonic() < self._measures_until:
            waited = int(socket_queues.seconds_since_data(connection) * 1e9)
            self.slot[Field.WAITED] = max(self.slot[Field.WAITED], waited)

    def describe_request(self, environ: dict[str, Any], listener: str | None, request: Any) -> None:
        """Set the ``socketact.*`` keys in `environ`, and make this the current request for logs.

        `listener` is None without socket activation.
        """
        if listener is not None:
            environ[keys.LISTENER] = listener
        environ[keys.DRAINING] = self.is_draining
        environ[keys.FIRST] = request.req_number == 1
        environ[keys.TRUSTS_PEER] = request._peer_is_trusted_proxy
        if self._errors is not None:
            environ["wsgi.errors"] = self._errors
        request_context.enter(environ)
