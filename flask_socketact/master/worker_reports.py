"""How the master learns that a worker accepts, or why it never will: one message from each worker."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from gunicorn.workers.base import Worker

from flask_socketact.master import conflicts
from flask_socketact.master.failures import Failure, locate
from flask_socketact.shared.scoreboard import Field
from flask_socketact.text import describe, printable


class WorkerReports:
    """The socket of one master. Made before the first fork; every worker writes to it."""

    def __init__(self) -> None:
        # Keeps messages apart, as a pipe does not; and takes more than the ten of a datagram socket.
        self._read, self._write = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._read.setblocking(False)
        self.accepting: set[int] = set()
        self._failures: dict[int, Failure] = {}
        self._begun = False  # in the process of a worker: it has reported its first heartbeat

    def watch(self, worker: Worker) -> None:
        """Let `worker` report its first heartbeat, or what it has failed with before. Called before it is forked.

        Every worker class of gunicorn calls ``notify()`` in its main loop and nowhere
        else: when it does so first, the application is loaded and the loop accepts.
        """
        heartbeat = worker.notify
        init_process = worker.init_process

        def first_heartbeat() -> None:
            worker.notify = heartbeat
            self._begun = True
            self._report()
            heartbeat()

        def init_or_report() -> None:
            with self.boot(worker):
                init_process()

        worker.notify = first_heartbeat
        worker.init_process = init_or_report

    @contextmanager
    def boot(self, worker: Worker) -> Iterator[None]:
        """Make a failed boot of what ends `worker` before its first heartbeat, unless it leaves because it was told to.

        gunicorn takes a worker for booted when its loop has been called, and replaces it again and again. Of
        exceptions it expects `Exception` and `SystemExit`: with any other a worker would go on as a second master.

        :raises RuntimeError: in the place of such another.
        """
        try:
            yield
        except BaseException as error:
            if isinstance(error, SystemExit) and (self._begun or not worker.alive):
                raise
            failure = error if isinstance(error, Exception) else RuntimeError(f"ended by {describe(error)}")
            if not self._begun:
                worker.booted = False
                self._report(Failure(describe(failure), locate(error)))
                _explain(worker, error)
            if failure is error:
                raise
            raise failure from error

    def collect(self, alive: Iterable[int]) -> None:
        """Read the reports, and forget workers that are not among the pids `alive`."""
        while True:
            try:
                pid, *reason = self._read.recv(4096).decode(errors="replace").split("\n")
            except BlockingIOError:
                break
            if reason:
                self._failures[int(pid)] = Failure(*reason)
            else:
                self.accepting.add(int(pid))
        self.accepting.intersection_update(alive)

    def failure(self, pid: int) -> Failure | None:
        """Return, once, why the worker `pid` could not boot; None when it has not said so."""
        return self._failures.pop(pid, None)

    def _report(self, failure: Failure | None = None) -> None:
        lines = (str(os.getpid()), *((failure.text, failure.public) if failure else ()))
        self._write.send("\n".join(map(printable, lines)).encode(errors="replace"))


def _explain(worker: Worker, error: BaseException) -> None:
    """Log who holds what `worker` could not have."""
    if worker.cgroup is not None:
        with suppress(OSError, ValueError):  # /proc is not as it should be: the error itself is told anyway
            for line in conflicts.explain(error, worker.cgroup, _siblings(worker)):
                worker.log.error("%s", line)


def _siblings(worker: Worker) -> set[int]:
    """Return the pids of the workers that the same start, or reload, has forked."""
    generation = worker.slot[Field.GENERATION]
    return {slot[Field.PID] for slot in worker.board.taken() if slot[Field.GENERATION] == generation}
