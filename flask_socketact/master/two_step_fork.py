"""How a loader forks a worker in two steps, so that the master becomes its parent.

The loader forks a process that forks the worker, and exits. The master, which is a subreaper, adopts the worker.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import time
from contextlib import suppress
from io import FileIO
from typing import TYPE_CHECKING, Any, NoReturn

import gunicorn.arbiter
import gunicorn.workers.base
from gunicorn.workers.base import Worker
from gunicorn.workers.workertmp import WorkerTmp

from flask_socketact.master.failures import Failure
from flask_socketact.shared.slot import Field
from flask_socketact.text import printable

if TYPE_CHECKING:
    from flask_socketact.master.pool import Pool

#: How long a loader may take to fork a worker, with the user's hook ``pre_fork``. The master waits meanwhile. Seconds.
FORK_TIMEOUT = 10.0
#: Longest answer, in bytes.
MAX_MESSAGE = 4096
#: The first line of an answer without a pid; the reason follows.
FAILED = "failed"
#: How often a new worker looks whether the master knows it. Seconds.
_ADMISSION_POLL = 0.0005
#: The unpatched functions: gevent's would run greenlets of the application in the loader.
_fork, _waitpid, _sleep = os.fork, os.waitpid, time.sleep


class TwoStepFork:
    """The forks of one loader."""

    def __init__(self, pool: Pool) -> None:
        """Take the copy of the master that this process has."""
        self._pool = pool

    def fork(self, age: int, slot: int, descriptors: list[int]) -> str:
        """Fork a worker, with the slot and the heartbeat file that the master has for it; return the answer to it."""
        try:
            if descriptors:
                return self._fork_worker(age, slot, descriptors[0])
            return lines(_not_forked(OSError(errno.EMFILE, os.strerror(errno.EMFILE))))
        except Exception as error:  # the hook pre_fork is the user's code
            self._pool.log.exception("A worker cannot be forked")
            return lines(_not_forked(error))

    def _fork_worker(self, age: int, slot: int, temporary: int) -> str:
        worker = self._make_worker(age, temporary)
        worker.slot = self._pool.board.slots[slot]
        reading, writing = os.pipe()
        with os.fdopen(reading, "rb", 0) as answer, os.fdopen(writing, "wb", 0) as answering:
            try:
                forker = self._fork(worker)
                if not forker:
                    answer.close()
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
            _disown_processes()
            self._await_admission(worker, forker)

        pool.await_admission = await_admission
        pool.worker_class = lambda *_: worker
        pool.cfg.set("pre_fork", lambda server, worker: None)  # noqa: ARG005 (gunicorn's names): it was called before
        pool.worker_age = worker.age - 1
        try:
            text = str(gunicorn.arbiter.Arbiter.spawn_worker(pool))
        except SystemExit:
            raise  # the worker's process exits
        except BaseException as error:  # noqa: BLE001 (reported to the master)
            if os.getpid() != forker:  # the worker, which could not report why it ends, must not go on as a loader
                os._exit(pool.WORKER_BOOT_ERROR)
            text = lines(_not_forked(error))
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


def _disown_processes() -> None:
    """Let a worker not end, when it exits, the processes that the import has started with multiprocessing."""
    process: Any = sys.modules.get("multiprocessing.process")
    if process is not None:
        process._children = set()


def _not_forked(error: BaseException) -> Failure:
    return Failure.of(error, "no worker can be forked: ")


def lines(failure: Failure) -> str:
    """Return the message for a failure."""
    return "\n".join(map(printable, (FAILED, failure.text, failure.public)))
