"""What runs in a loader: it loads the application once, and forks the workers of its generation."""

from __future__ import annotations

import atexit
import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from gunicorn import util

from flask_socketact.bridge import request_context
from flask_socketact.bridge.children import end_child, flush_output
from flask_socketact.bridge.loading import loading
from flask_socketact.bridge.server_info import Server
from flask_socketact.handover.steps import Step, reached
from flask_socketact.linux import process_control
from flask_socketact.linux.fork_signals import ForkSignals
from flask_socketact.logs import reopen, sandbox_errors
from flask_socketact.master import conflicts, fork_hazards
from flask_socketact.master.failures import Failure
from flask_socketact.master.two_step_fork import TwoStepFork, lines
from flask_socketact.shared.slot import Field, private_slot

if TYPE_CHECKING:
    from flask_socketact.master.pool import Pool

#: What a loader sends when the application is loaded.
LOADED = "loaded"
#: How often a loader that is not needed any more looks whether the workers of its generation have exited. Seconds.
_EXIT_POLL = 0.05
#: The unpatched function: gevent's would run greenlets of the application in the loader.
_sleep = time.sleep


class LoaderProcess:
    """The process that a master has forked to load the application."""

    def __init__(self, pool: Pool, control: socket.socket) -> None:
        """Take the copy of the master that this process has, and its end of the socket to the master."""
        self._pool = pool
        self._control = control
        self._pid = os.getpid()
        self._rotations = pool.rotations
        self._is_loading = True
        self._is_told_to_exit = False
        self._signals = ForkSignals([signal.SIGTERM])
        self._forks = TwoStepFork(pool)

    def run(self) -> NoReturn:
        """Load the application, and fork workers until the generation has ended.

        :raises SystemExit: in the process of a worker, when it exits.
        """
        status = self._pool.WORKER_BOOT_ERROR
        try:
            self._leave_master()
            if self._load():
                self._serve()
                self._wait_for_workers()
                status = 0
        except BaseException as error:
            if os.getpid() != self._pid:
                raise
            if self._is_told_to_exit:
                status = 0
            else:
                self._pool.log.error("Unexpected error in a loader", exc_info=error)
        # The exit handlers of the application end what its import has started. Nothing waits for its threads.
        self._is_loading = False
        atexit._run_exitfuncs()
        if self._is_told_to_exit:  # tell the master that it is not the application that has ended this process
            flush_output()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)
        end_child(SystemExit(status), self._pool.log)

    def _leave_master(self) -> None:
        """Give up what belongs to the master: this is its copy."""
        pool = self._pool
        pool.loader = None  # from here on, the fork is ours
        for worker in pool.WORKERS.values():
            worker.tmp.close()
        pool.WORKERS.clear()
        for listener in pool.dropped_listeners:
            listener.close()
        pool.dropped_listeners = ()
        for number in pool.SIGNALS:
            # Not SIG_IGN, which programs that the application starts would inherit.
            signal.signal(number, lambda *_: None)
        signal.signal(signal.SIGTERM, self._end)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.register_at_fork(
            before=self._signals.hold, after_in_parent=self._signals.release, after_in_child=self._leave
        )
        util._setproctitle(f"loader [{pool.proc_name}]")
        request_context.generation = request_context.name_generation(pool.pid, pool.generation)
        util.set_owner_process(pool.cfg.uid, pool.cfg.gid, initgroups=pool.cfg.initgroups)
        pool.cfg.set("initgroups", False)  # the workers have the right user by now, who may not do this again
        process_control.die_with_parent(signal.SIGKILL)
        if os.getppid() != pool.pid:  # it has died before
            os._exit(0)

    def _end(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 (a signal handler)
        """Exit at once while the application loads; later, when the workers have exited."""
        self._is_told_to_exit = True
        if self._is_loading:
            sys.exit(0)
        with suppress(OSError):
            self._control.shutdown(socket.SHUT_RDWR)

    def _leave(self) -> None:
        """Give up what belongs to the loader, in a process that it, or the application, has forked."""
        self._control.close()
        if signal.getsignal(signal.SIGTERM) == self._end:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
        self._signals.release()

    def _load(self) -> bool:
        """Load the application; report to the master that it is loaded, or why not, and return whether it is."""
        pool = self._pool
        pool.log.info("Loading the application for all workers (pid: %s)", self._pid)
        patch: Callable[[], None] | None = getattr(pool.worker_class, "patch_before_load", None)
        names = [(getattr(listener, "fdname", None), listener) for listener in pool.LISTENERS]
        server = Server(names, pool.board, private_slot(), lambda: False)
        sandbox_errors.watch(pool.log)
        reached(Step.LOADER_LOADS)
        try:
            if patch is not None:
                patch()
            with loading(server, pool.log, is_told_to_exit=lambda: self._is_told_to_exit):
                before = fork_hazards.open_files()
                pool.app.wsgi()
        except BaseException as error:
            if self._is_told_to_exit:
                raise
            self._is_loading = False
            pool.log.exception("The application cannot be loaded")
            for line in conflicts.explain(error, pool.cgroup, ()) if pool.cgroup else ():
                pool.log.error("%s", line)
            self._send(lines(Failure.of(error)))
            return False
        self._is_loading = False
        self._warn(before)
        gc.collect()
        gc.freeze()  # a collection in a worker would write to every object, and so copy the memory
        process_control.die_with_parent(0)  # from now on, it exits after its workers
        reached(Step.LOADER_HAS_LOADED)
        self._send(LOADED)
        return True

    def _warn(self, before: dict[int, str]) -> None:
        """Tell what the application has begun that a fork breaks; `before` are the files that were open before."""
        log = self._pool.log
        try:
            for hazard in fork_hazards.find(before):
                log.warning("preload_app: %s", hazard)
        except Exception:
            log.exception("preload_app: what a fork breaks cannot be found")

    def _serve(self) -> None:
        """Fork a worker for each message, until the master closes the socket, or has died."""
        while True:
            try:
                message, descriptors, *_ = socket.recv_fds(self._control, 64, 1, socket.MSG_CMSG_CLOEXEC)
            except ConnectionResetError:  # it has closed the socket before it has read our message
                return
            if not message:
                return
            age, slot, rotations = map(int, message.split())
            if rotations > self._rotations:
                self._rotations = rotations
                reopen.reopen(self._pool.log)
            reached(Step.LOADER_FORKS)
            self._send(self._forks.fork(age, slot, descriptors))

    def _wait_for_workers(self) -> None:
        """Wait until no worker of this generation is left: they may need what the import has started."""
        pool = self._pool
        for listener in pool.LISTENERS:
            listener.close()
        while any(slot[Field.GENERATION] == pool.generation for slot in pool.board.living()):
            _sleep(_EXIT_POLL)

    def _send(self, text: str) -> None:
        """Send a message, if the master is still there."""
        with suppress(OSError):
            self._control.send(text.encode(errors="replace"))
