"""What our worker classes share: how a worker boots, drains, and tells the application of it."""

from __future__ import annotations

import _thread
import atexit
import faulthandler
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

from gunicorn.workers.base import Worker

from flask_socketact import env
from flask_socketact.bridge import holds, request_context, server_info
from flask_socketact.errors import CountersError, MailboxError
from flask_socketact.handover.mailbox import Mailbox, Origin
from flask_socketact.http.client_socket import ClientSocket
from flask_socketact.linux import socket_queues
from flask_socketact.linux.descriptors import STDERR
from flask_socketact.logs import logger, reopen, root
from flask_socketact.shared import metric_files, scoreboard
from flask_socketact.shared.scoreboard import Field, Scoreboard, Slot
from flask_socketact.systemd import cgroup, manager, message_ids

#: How often a worker gives a sign of life, in seconds.
HEARTBEAT = 1.0
#: How long an idle connection stays open in a drain, for a request that its client may have sent already. Seconds.
LINGER = 2.0
#: For so long after it has begun a worker measures what clients have waited. Seconds.
SETTLING = 10.0
#: How often a worker that drains looks at what is left, in seconds.
DRAIN_POLL = 0.05
#: When a worker's loop fails more often than this within a second, it cannot go on.
MAX_FAILURES = 8
#: A worker that does not leave by itself, whatever keeps it, leaves so much later than the drain time. Seconds.
OVERDUE = 1.0
#: How long after the death of its master a worker may be relayed: after WatchdogSec= it is ended first. Seconds.
RELAY_TIMEOUT = 2.0
#: How long the service manager may take to tell whether it stops a scope. Seconds.
MANAGER_TIMEOUT = 2.0

#: The real ones, taken before gevent puts its own in their place: what ends a worker, or a child of one, must not wait
#: for its loop.
_start_thread = _thread.start_new_thread
_sleep = time.sleep
close_descriptor = os.close


def listener_name(listener: Any) -> str | None:
    """Return ``FileDescriptorName=`` of a listener; None when it is not systemd's."""
    return getattr(listener, "fdname", None)


class ApplicationError(Exception):
    """An exception of the application's that gunicorn would take for one of its own: for an error of the client's
    socket (OSError), or for the end of the greenlet or the worker (BaseException). gunicorn answers this with 500."""


class Lifecycle(Worker):
    """Mixed into gunicorn's worker classes, before them."""

    #: Set by the master before it forks.
    board: Scoreboard
    slot: Slot
    mailbox: Mailbox | None = None
    cgroup: str | None = None  #: control group of the service
    generation: str | None = None

    hands_over = True  #: ... which the master sees that it is one of ours by

    _taken_signals = (*Worker.SIGNALS, signal.SIGURG)

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
        self.is_told_to_quit = False  #: by SIGQUIT or SIGABRT, which wait for nothing
        self._is_told_of_stop = False  # of the scope
        self.is_child = False  #: this is no worker, but a process that its application has forked
        self._replaced: dict[int, Any] = {}  # signal handlers of the application, in the place of which we put ours
        self._errors: Any = None  # ``wsgi.errors``, where gunicorn's would fail with a stream that is closed
        self._forking = threading.local()  # the signals that a thread has blocked before it forked
        self._deadline_set = False  # a thread ends the process when the drain time is over
        self._drain_told_end = False
        self._next_beat = 0.0
        self._told_ready = False  # applications know
        self._drain_began = 0.0
        self._drain_told = False
        self._settles_at = 0.0  # 0.0: it has not begun
        self._failures: list[float] = []  # of the loop itself, within the last second

    def init_process(self) -> None:
        self._managed = hasattr(self, "slot")
        if not self._managed:  # a master that is not ours
            self.board = Scoreboard()
            self.slot = self.board.take(1, self.cfg.threads)
            self.board.note_ready(1, time.monotonic())  # nobody else will
        self.slot[Field.PID] = os.getpid()
        request_context.generation = self.generation
        os.register_at_fork(
            before=self._hold_signals, after_in_parent=self._release_signals, after_in_child=self.become_child
        )
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
        self._drain_told_end = True
        self._call_replaced_handler()

    def _call_replaced_handler(self) -> None:
        """Call what the application has set for SIGTERM: it may have something to finish, as a thread to stop."""
        handler = self._replaced.get(signal.SIGTERM)
        if not callable(handler):
            return
        try:
            handler(signal.SIGTERM, None)
        except SystemExit:  # the usual end of one
            pass
        except BaseException:
            self.log.exception("The application's handler of SIGTERM has failed")

    def _set_deadline(self) -> None:
        """End the process when the drain time is over, whatever keeps it: a thread of the application, a signal
        handler, a view in the main thread. Not by a timer's signal, which the application may want for itself."""
        if not self._deadline_set:
            self._deadline_set = True
            with suppress(RuntimeError):  # no thread can be started: the master ends a worker that does not leave
                _start_thread(self._leave_when_overdue, ())

    def _leave_when_overdue(self) -> None:
        try:
            _sleep(max(0.0, self._drain_began + self.cfg.graceful_timeout + OVERDUE - time.monotonic()))
            if self._drain_told_end:  # the interpreter waits for threads, and calls these after them
                self._log_threads()
                atexit._run_exitfuncs()
            else:
                self._log_cut_short()
        finally:
            os._exit(0)

    def _log_threads(self) -> None:
        main = threading.main_thread()
        names = [thread.name for thread in threading.enumerate() if not thread.daemon and thread is not main]
        if names:
            self.log.warning(
                "The drain time of %s s is over: leaving without the application's thread %s (pid: %s)",
                self.cfg.graceful_timeout,
                ", ".join(names),
                os.getpid(),
            )

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
                "Carried %s idle connections to other workers",
                carried,
                extra=message_ids.CARRIED | {"CONNECTIONS": carried},
            )
        if not self.slot[Field.OPEN]:
            self.log.info("Drained, with nothing left (pid: %s)", os.getpid(), extra=message_ids.DRAINED)

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
        self._keep_signals()
        logger.restore(self.log)
        root.take_root()
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
        if not self._settles_at:
            self._settles_at = now + SETTLING
            self.slot[Field.ACCEPTING] = not self.slot[Field.DRAINING]
        self._keep_signals()
        if self._is_told_of_stop:
            self._is_told_of_stop = False
            self._look_into_stop()
        if self.alive and self.slot[Field.DRAINING]:  # the master has said so, and its signal was lost
            self.handle_exit(signal.SIGTERM, None)
        self._tell(lambda application: application.beat())
        if not self._told_ready and self.board.ready >= self.slot[Field.GENERATION]:
            self._told_ready = True
            self._send(server_info.GENERATION_READY)

    def begin_drain(self) -> None:
        """Let applications know of the drain; called, perhaps again, when it has begun."""
        if not self._drain_told:
            self._drain_told = True
            self._drain_began = self._drain_began or time.monotonic()
            self._set_deadline()
            self._send(server_info.DRAIN_BEGUN)

    def _tell(self, tell: Callable[[server_info.Application], None]) -> None:
        for application in list(server_info.applications):
            try:
                tell(application)
            except Exception:
                self.log.exception("The application has failed to take a message of its server")

    def _send(self, signal: str) -> None:
        """Send a signal to applications in a thread: what they do then may take its time. A drain waits for its end."""
        if not any(application.hears(signal) for application in server_info.applications):
            return
        held = holds.take(f"receivers of {signal}")

        def run() -> None:
            try:
                self._tell(lambda application: application.send(signal))
            finally:
                holds.release(held)

        threading.Thread(target=run, name=signal, daemon=True).start()

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
        self._succeeded = self._succeeded or self.is_relayed()
        self._drain_began = self._drain_began or time.monotonic()
        self._set_deadline()
        self.slot.begin_drain()
        if not self.booted and not self.has_mail():
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
        signal.signal(signal.SIGURG, self.handle_urg)
        # Not at once, as gunicorn has it: the master, to which Ctrl-C goes, too, tells its workers to quit.
        signal.signal(signal.SIGINT, self.handle_exit)
        signal.signal(signal.SIGPWR, signal.SIG_IGN)  # WatchdogSignal=, which is for the master

    def _keep_signals(self) -> None:
        """Put our handlers back where the application has put its own: reloads and stops depend on these."""
        ours = {
            signal.SIGTERM: self.handle_exit,
            signal.SIGURG: self.handle_urg,
            signal.SIGWINCH: self.handle_winch,
        }
        for number, handler in ours.items():
            found = signal.getsignal(number)
            if found == handler:
                continue
            signal.signal(number, handler)
            signal.siginterrupt(number, False)
            if found is not self._replaced.get(number):
                self._replaced[number] = found
                then = ", when the worker has drained" if number == signal.SIGTERM else ", never"
                self.log.warning(
                    "The application has set a handler for %s: the worker keeps its own, and calls it%s",
                    number.name,
                    then,
                )

    def _hold_signals(self) -> None:
        """Let signals wait while the application forks: one that comes early is for the child, and not for our handlers
        in it (``multiprocessing.Process.terminate()``)."""
        self._forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._taken_signals)

    def _release_signals(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._forking.mask)

    def become_child(self) -> None:
        """Be no worker any more, in a process that the application has forked: touch nothing that is the worker's, and
        take signals as any process."""
        self.is_child = True
        ClientSocket.in_worker = False
        signal.set_wakeup_fd(-1)
        for number in self._taken_signals:
            if getattr(signal.getsignal(number), "__self__", None) is self:
                signal.signal(number, signal.SIG_DFL)
        self._release_signals()
        self.slot = scoreboard.private_slot()
        for descriptor in self.PIPE:
            close_descriptor(descriptor)
        if self.mailbox is not None:
            self.mailbox.listener.close()
        self.close_in_child()

    def close_in_child(self) -> None:
        """Close the child's copies of what the worker serves on."""
        for listener in self.sockets:
            listener.close()

    def end_child(self, error: BaseException | None) -> NoReturn:
        """End a process that the application has forked in a request, and in which its view has returned, or has raised
        `error`: its parent answers the client."""
        status = 0
        if isinstance(error, SystemExit):
            status = error.code if isinstance(error.code, int) else int(error.code is not None)
        elif error is not None:
            status = 1
            self.log.error("Error in a process that a view has forked (pid: %s)", os.getpid(), exc_info=error)
        for stream in (sys.stdout, sys.stderr):
            with suppress(AttributeError, OSError, ValueError):  # none, or closed
                stream.flush()
        os._exit(status)

    def handle_usr1(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 (a signal handler)
        """Open log files anew, soon: gunicorn's handler does so at once, perhaps in the middle of writing a line."""
        self._reopens = True

    def reopen_files(self) -> None:
        """Open log files anew, if somebody has asked for it; called in each turn of the main loop."""
        if self._reopens:
            self._reopens = False
            reopen.reopen(self.log)

    def handle_urg(self, sig: int, frame: FrameType | None) -> None:
        """The next generation is ready: drain, and carry to it."""
        if self.is_relayed() and not self._succeeded:
            self.handle_exit(sig, frame)

    def handle_winch(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 (a signal handler)
        """The scope stops, and so does the service; soon it is looked into whether that is so."""
        if self.is_relayed():
            self._is_told_of_stop = True
            self._next_beat = 0.0

    def _look_into_stop(self) -> None:
        """Drain, and from now on carry nothing, if the scope stops: the application may have sent the signal itself."""
        scope = os.path.basename(cgroup.of(os.getpid()) or "")
        if not scope_stops(scope):
            self.log.warning("SIGWINCH ignored: %s does not stop (pid: %s)", scope, os.getpid())
            return
        self.board.stopping = True
        if not self._succeeded:
            self.handle_exit(signal.SIGWINCH, None)

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
        if self.board.stopping or self.board.is_deaf:
            return False
        if not self.is_relayed() or self._succeeded:
            return True  # a sibling, or the next generation, which systemd starts also when the master has died
        return any(not sibling[Field.DRAINING] for sibling in self.board.taken())

    def is_superseded(self) -> bool:
        """Whether new connections are the next generation's, which answers; this worker may not have begun to drain."""
        if self.board.is_superseded:
            return True
        return bool(self.slot[Field.DRAINING]) and not self.is_relayed() and self.has_successor()

    def pass_on(self, client: Any, listener: str | None) -> bool:
        """Leave a connection of which nothing has been read to the next generation, if that takes what is new: the
        kernel may still give us some. Return whether it has gone."""
        if self.mailbox is None or not self.is_superseded():
            return False
        try:
            for _ in self.mailbox.send([(Origin(listener, served=False), client.fileno())], 1):
                client.close()
        except MailboxError as error:
            self.log.warning("Mailbox: %s", error)
            return False
        return True

    def has_mail(self) -> bool:
        """Whether connections wait for this worker, or another, to take them from the mailbox."""
        return self.mailbox is not None and self.mailbox.has_mail()

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
                self.log.info("Serving on while the service restarts (pid: %s)", os.getpid(), extra=message_ids.RELAYED)
            elif time.monotonic() - self._orphaned_since > RELAY_TIMEOUT:
                self.orphaned = True
                self.alive = False
                self.log.info("The master has died, draining: %s", self)
        return not self.orphaned

    def observe(self, environ: dict[str, Any], status: str | None, began: float) -> None:
        """Tell an application that has asked for it that a response was sent, or has failed (`status` is None). The
        request began at `began` (CLOCK_MONOTONIC, seconds)."""
        observe = environ.get(request_context.OBSERVE)
        if observe is None:
            return
        try:
            observe(environ, status, time.monotonic() - began)
        except Exception:
            self.log.exception("A response was not counted")

    def note_wait(self, connection: Any) -> None:
        """Note how long the first request of a connection had waited: what a restart has cost, if this worker has just
        begun. TCP alone tells."""
        if not self._settles_at or time.monotonic() < self._settles_at:
            waited = int(socket_queues.seconds_since_data(connection) * 1e9)
            self.slot[Field.WAITED] = max(self.slot[Field.WAITED], waited)

    def describe_request(self, environ: dict[str, Any], listener: str | None, request: Any) -> None:
        """Tell the application by which listener a request came (only under activation), whether it is its connection's
        first, and of the drain; and what is logged, of the request."""
        if listener is not None:
            environ[request_context.LISTENER] = listener
        environ["socketact.draining"] = self.is_draining
        environ[request_context.FIRST] = request.req_number == 1
        environ[request_context.TRUSTS_PEER] = request._peer_is_trusted_proxy
        if self._errors is not None:
            environ["wsgi.errors"] = self._errors
        request_context.enter(environ)


def scope_stops(scope: str) -> bool:
    """Whether the manager stops a scope, or does not tell."""
    options = ("--user",) if os.getuid() and "/user@" in (cgroup.of(os.getpid()) or "") else ()
    command = ("systemctl", *options, "show", "--property=ActiveState", "--value", "--", scope)
    try:
        return manager.call(*command, seconds=MANAGER_TIMEOUT).stdout.strip() not in manager.ACTIVE_STATES
    except (OSError, manager.ManagerError, subprocess.SubprocessError):
        return True


def status_of(response: Any, failure: BaseException | None, *, is_clients: bool) -> str | None:
    """Return the status that a request counts with which has ended, with `failure` if it has failed; None: it failed by
    the application's fault. `is_clients`: the client has broken off, or has sent a body that is malformed."""
    status: str | None = response and response.status
    if isinstance(failure, StopIteration):  # how applications end a connection that they have served themselves
        return status or "101 Switching Protocols"
    if is_clients:
        return status if status and status < "5" else "400 Bad Request"
    return status if failure is None else None
