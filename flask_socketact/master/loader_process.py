"""What runs in a loader: it loads the application once, and forks the workers of its generation."""

from __future__ import annotations

import gc
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from io import FileIO
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

import gunicorn.arbiter
import gunicorn.workers.base
from gunicorn import util
from gunicorn.workers.base import Worker
from gunicorn.workers.workertmp import WorkerTmp

from flask_socketact.bridge import request_context
from flask_socketact.bridge.loading import loading
from flask_socketact.bridge.server_info import Server
from flask_socketact.linux import process_control
from flask_socketact.logs import reopen
from flask_socketact.master import conflicts, fork_hazards
from flask_socketact.master.failures import Failure
from flask_socketact.shared import scoreboard
from flask_socketact.shared.scoreboard import Field
from flask_socketact.text import printable

if TYPE_CHECKING:
    from flask_socketact.master.pool import Pool

#: What a loader sends when the application is loaded.
LOADED = "loaded"
FAILED = "failed"
#: Longest message, in bytes.
MAX_MESSAGE = 4096
#: How long a loader may take to fork a worker, with the user's hook ``pre_fork``. The master waits meanwhile. Seconds.
FORK_TIMEOUT = 10.0
#: How often a loader that is not needed any more looks whether the workers of its generation have exited. Seconds.
_EXIT_POLL = 0.05
#: How often a new worker looks whether the master knows it. Seconds.
_ADMISSION_POLL = 0.0005
#: The unpatched functions: gevent's would run greenlets of the application in the loader.
_fork, _waitpid, _sleep = os.fork, os.waitpid, time.sleep


class LoaderProcess:
    """The process that a master has forked to load the application.

    A worker is forked in two steps: the loader forks a process that forks the worker, and exits. So the master, which
    is a subreaper, becomes the worker's parent, as with workers that it has forked itself.
    """

    def __init__(self, pool: Pool, control: socket.socket) -> None:
        """Take the copy of the master that this process has, and its end of the socket to the master."""
        self._pool = pool
        self._control = control
        self._pid = os.getpid()
        self._rotations = pool.rotations
        self._is_loading = True
        self._is_told_to_exit = False

    def run(self) -> NoReturn:
        """Load the application, and fork workers until the generation has ended.

        :raises SystemExit: at the end; also in the process of a worker, when it exits.
        """
        status = self._pool.WORKER_BOOT_ERROR
        try:
            self._leave_master()
            if self._load():
                self._serve()
                self._wait_for_workers()
                status = 0
        except Exception:
            if os.getpid() != self._pid:
                raise
            self._pool.log.exception("Unexpected error in a loader")
        sys.exit(status)  # with the exit handlers of the application, which end what its import has started

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
        os.register_at_fork(after_in_child=self._leave)
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

    def _load(self) -> bool:
        """Load the application; report to the master that it is loaded, or why not, and return whether it is."""
        pool = self._pool
        pool.log.info("Loading the application for all workers (pid: %s)", self._pid)
        patch: Callable[[], None] | None = getattr(pool.worker_class, "patch_before_load", None)
        names = [(getattr(listener, "fdname", None), listener) for listener in pool.LISTENERS]
        server = Server(names, pool.board, scoreboard.private_slot(), lambda: False)
        try:
            if patch is not None:
                patch()
            with loading(server, pool.log, is_told_to_exit=lambda: self._is_told_to_exit):
                before = fork_hazards.open_files()
                pool.app.wsgi()
        except BaseException as error:
            if self._is_told_to_exit:
                raise
            pool.log.error("The application cannot be loaded", exc_info=error)
            for line in conflicts.explain(error, pool.cgroup, ()) if pool.cgroup else ():
                pool.log.error("%s", line)
            self._send(_lines(Failure.of(error)))
            return False
        self._is_loading = False
        with suppress(OSError):  # no descriptor is left to look with
            for hazard in fork_hazards.find(before):
                pool.log.warning("preload_app: %s", hazard)
        gc.collect()
        gc.freeze()  # a collection in a worker would write to every object, and so copy the memory
        process_control.die_with_parent(0)  # from now on, it exits after its workers
        self._send(LOADED)
        return True

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
            try:
                answer = self._spawn(age, slot, descriptors[0])
            except Exception as error:  # the hook pre_fork is the user's code
                self._pool.log.exception("A worker cannot be forked")
                answer = _lines(_not_forked(error))
            self._send(answer)

    def _wait_for_workers(self) -> None:
        """Wait until no worker of this generation is left: they may need what the import has started."""
        pool = self._pool
        for listener in pool.LISTENERS:
            listener.close()
        while any(slot[Field.GENERATION] == pool.generation for slot in pool.board.living()):
            _sleep(_EXIT_POLL)

    def _spawn(self, age: int, slot: int, temporary: int) -> str:
        """Fork a worker, with the slot and the heartbeat file that the master has for it; return the answer."""
        worker = self._make_worker(age, temporary)
        worker.slot = self._pool.board.slot(slot)
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb", 0) as answer, os.fdopen(writing, "wb", 0) as answering:
            try:
                forker = self._fork(worker)
                if not forker:
                    self._fork_again(worker, answering)
            finally:
                worker.tmp.close()
            answering.close()
            text = answer.read(MAX_MESSAGE).decode(errors="replace")
        with suppress(ChildProcessError):  # the application ignores SIGCHLD, or has reaped it
            _waitpid(forker, 0)
        if not text:
            raise ChildProcessError(f"process {forker}, which forks it, has ended")
        return text

    def _fork(self, worker: Worker) -> int:
        """Call the hook ``pre_fork``, which blocks signals for the worker; fork, and unblock them here."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        forker = -1
        try:
            self._pool.cfg.pre_fork(self._pool, worker)
            forker = _fork()
        finally:
            if forker:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return forker

    def _make_worker(self, age: int, temporary: int) -> Worker:
        """Return a worker with the heartbeat file that the master has made: we may not be allowed to make one."""
        pool = self._pool
        file = WorkerTmp.__new__(WorkerTmp)
        file._tmp = os.fdopen(temporary, "w+b", 0)
        gunicorn.workers.base.WorkerTmp = lambda _: file
        return pool.worker_class(age, pool.pid, pool.LISTENERS, pool.app, pool.timeout / 2.0, pool.cfg, pool.log)

    def _fork_again(self, worker: Worker, answering: FileIO) -> NoReturn:
        """Fork the worker as gunicorn does, answer with its pid, and exit.

        :raises SystemExit: in the process of the worker, when it exits.
        """
        pool = self._pool
        forker = os.getpid()

        def await_admission(worker: Worker) -> None:
            answering.close()
            self._await_admission(worker, forker)

        pool.await_admission = await_admission
        pool.worker_class = lambda *_: worker
        pool.cfg.set("pre_fork", lambda server, worker: None)  # noqa: ARG005 (gunicorn's names): it was called before
        pool.worker_age = worker.age - 1
        try:
            text = str(gunicorn.arbiter.Arbiter.spawn_worker(pool))
        except Exception as error:
            if os.getpid() != forker:
                raise
            text = _lines(_not_forked(error))
        answering.write(text.encode(errors="replace"))
        os._exit(0)

    def _await_admission(self, worker: Worker, forker: int) -> None:
        """Wait until the master is the parent of this worker, and knows it; or exit. A worker that it does not know
        must not serve, and one with another parent would believe that the master has died."""
        deadline = time.monotonic() + FORK_TIMEOUT
        while (parent := os.getppid()) == forker or worker.slot[Field.PID] != os.getpid():
            if parent not in (forker, self._pool.pid) or time.monotonic() > deadline:
                os._exit(0)
            _sleep(_ADMISSION_POLL)

    def _send(self, text: str) -> None:
        """Send a message, if the master is still there."""
        with suppress(OSError):
            self._control.send(text.encode(errors="replace"))


def _not_forked(error: BaseException) -> Failure:
    return Failure.of(error, "no worker can be forked: ")


def _lines(failure: Failure) -> str:
    return "\n".join(map(printable, (FAILED, failure.text, failure.public)))
