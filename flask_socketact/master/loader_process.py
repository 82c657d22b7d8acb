"""What runs in a loader: it loads the application once, and forks the workers of its generation."""

from __future__ import annotations

import gc
import os
import signal
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

import gunicorn.arbiter
from gunicorn import util
from gunicorn.workers.base import Worker

from flask_socketact.bridge import request_context
from flask_socketact.bridge.loading import loading
from flask_socketact.bridge.server_info import Server
from flask_socketact.linux import process_control
from flask_socketact.logs import reopen
from flask_socketact.master import conflicts, fork_hazards
from flask_socketact.master.failures import Failure
from flask_socketact.shared import scoreboard
from flask_socketact.text import printable

if TYPE_CHECKING:
    from flask_socketact.master.pool import Pool

#: What a loader sends when the application is loaded.
LOADED = "loaded"
FAILED = "failed"
#: How often a new worker looks whether the master has become its parent. Seconds.
_PARENT_POLL = 0.0005
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
        self._pids = [os.getpid()]  # of processes that are not workers

    def run(self) -> NoReturn:
        """Load the application, and fork workers, until the master ends this process.

        :raises SystemExit: in the process of a worker, when it exits.
        """
        try:
            self._leave_master()
            if self._load():
                self._serve()
        except BaseException as error:
            if isinstance(error, SystemExit) and os.getpid() not in self._pids:
                raise
            self._pool.log.exception("Unexpected error in a loader")
        os._exit(self._pool.WORKER_BOOT_ERROR)

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
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else lambda *_: None)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        util._setproctitle(f"loader [{pool.proc_name}]")
        request_context.generation = request_context.name_generation(pool.pid, pool.generation)
        util.set_owner_process(pool.cfg.uid, pool.cfg.gid, initgroups=pool.cfg.initgroups)
        pool.cfg.set("initgroups", False)  # the workers have the right user by now, who may not do this again
        process_control.die_with_parent(signal.SIGKILL)
        if os.getppid() != pool.pid:  # it has died before
            os._exit(0)

    def _load(self) -> bool:
        """Load the application; report to the master that it is loaded, or why not, and return whether it is."""
        pool = self._pool
        pool.log.info("Loading the application for all workers (pid: %s)", os.getpid())
        patch: Callable[[], None] | None = getattr(pool.worker_class, "patch_before_load", None)
        server = Server(
            [(getattr(listener, "fdname", None), listener) for listener in pool.LISTENERS],
            pool.board,
            scoreboard.private_slot(),
            lambda: False,
        )
        try:
            if patch is not None:
                patch()
            with loading(server, pool.log):
                before = fork_hazards.open_files()
                pool.app.wsgi()
        except BaseException as error:
            pool.log.error("The application cannot be loaded", exc_info=error)
            for line in conflicts.explain(error, pool.cgroup, ()) if pool.cgroup else ():
                pool.log.error("%s", line)
            self._report_failure(Failure.of(error))
            return False
        for hazard in fork_hazards.find(before):
            pool.log.warning("preload_app: %s", hazard)
        gc.collect()
        gc.freeze()  # a collection in a worker would write to every object, and so copy the memory
        self._control.send(LOADED.encode())
        return True

    def _serve(self) -> None:
        """Fork a worker for each message, until the master closes the socket."""
        while True:
            message, descriptors, *_ = socket.recv_fds(self._control, 64, 1, socket.MSG_CMSG_CLOEXEC)
            if not message:
                return
            age, slot = map(int, message.split())
            try:
                self._fork(age, slot, descriptors[0])
            except Exception as error:  # the hook pre_fork is the user's code
                self._pool.log.exception("A worker cannot be forked")
                self._report_failure(Failure.of(error, "no worker can be forked: "))

    def _fork(self, age: int, slot: int, temporary: int) -> None:
        """Fork a worker, with the slot and the heartbeat file that the master has for it."""
        pool = self._pool
        reopen.reopen(pool.log)  # the files may have been rotated
        worker = pool.worker_class(age, pool.pid, pool.LISTENERS, pool.app, pool.timeout / 2.0, pool.cfg, pool.log)
        worker.tmp.close()
        worker.tmp._tmp = os.fdopen(temporary, "w+b", 0)
        worker.slot = pool.board.slot(slot)
        before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        try:
            pool.cfg.pre_fork(pool, worker)
            child = _fork()
            if not child:
                self._fork_again(worker)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
            worker.tmp.close()
        _, status = _waitpid(child, 0)
        if status:
            raise ChildProcessError(f"the process that forks it has ended with status {status}")

    def _fork_again(self, worker: Worker) -> NoReturn:
        """Fork the worker as gunicorn does, report its pid, and exit.

        :raises SystemExit: in the process of the worker, when it exits.
        """
        pool = self._pool
        self._pids.append(os.getpid())
        self._await_master(worker)
        pool.worker_class = lambda *_: worker
        pool.cfg.set("pre_fork", lambda server, worker: None)  # noqa: ARG005 (gunicorn's names): it was called before
        pool.worker_age = worker.age - 1
        status = 1
        try:
            pid = gunicorn.arbiter.Arbiter.spawn_worker(pool)
            self._announce(pid)
            status = 0
        except BaseException as error:
            if os.getpid() not in self._pids:
                raise
            with suppress(OSError):
                self._report_failure(Failure.of(error, "no worker can be forked: "))
                status = 0
        os._exit(status)

    def _announce(self, pid: int) -> None:
        """Report the pid of a new worker. One that the master does not know must not serve."""
        try:
            self._control.send(str(pid).encode())
        except OSError:
            os.kill(pid, signal.SIGKILL)
            raise

    def _await_master(self, worker: Worker) -> None:
        """Let `worker` begin when the master has become its parent: it takes another parent for the master's death."""
        init_process = worker.init_process
        forker = os.getpid()

        def init_when_adopted() -> None:
            self._control.close()
            while os.getppid() == forker:
                _sleep(_PARENT_POLL)
            init_process()

        worker.init_process = init_when_adopted

    def _report_failure(self, failure: Failure) -> None:
        lines = (FAILED, failure.text, failure.public)
        self._control.send("\n".join(map(printable, lines)).encode(errors="replace"))
