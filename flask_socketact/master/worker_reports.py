"""How the master learns that a worker accepts connections, or why it failed: one message from each worker."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

from gunicorn.workers.base import Worker

from flask_socketact.master import conflicts
from flask_socketact.master.failures import Failure, locate
from flask_socketact.shared.slot import Field
from flask_socketact.text import describe, printable


class WorkerReports:
    """The socket of one master, created before the first fork. Each worker writes to it."""

    def __init__(self) -> None:
        # It keeps message boundaries, unlike a pipe; and queues more than the ten messages of a datagram socket.
        self._read, self._write = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._read.setblocking(False)
        self.accepting: set[int] = set()
        self._failures: dict[int, Failure] = {}
        self._begun = False  # in the process of a worker: it has reported its first heartbeat

    def watch(self, worker: Worker) -> None:
        """Let `worker` report its first heartbeat, or the error that came before it. Called before the fork.

        Each of gunicorn's worker classes calls ``notify()`` in its main loop only: at the first call, the application
        is loaded, and the loop accepts connections.
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
        """Report an error that ends `worker` before its first heartbeat as a failed boot, unless it was told to exit.

        gunicorn regards a worker as booted when its loop was called, and would replace it again and again. It expects
        `Exception` and `SystemExit`: after any other exception, the worker's process would continue as a second master.

        :raises RuntimeError: instead of such another exception.
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
        """Read the messages, and forget workers whose pids are not in `alive`."""
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
        """Return why the worker `pid` could not boot, once; None without a message of it."""
        return self._failures.pop(pid, None)

    def _report(self, failure: Failure | None = None) -> None:
        lines = (str(os.getpid()), *((failure.text, failure.public) if failure else ()))
        self._write.send("\n".join(map(printable, lines)).encode(errors="replace"))


def _explain(worker: Worker, error: BaseException) -> None:
    """Log which process holds the port or lock that `worker` needs."""
    if worker.cgroup is not None:
        with suppress(OSError, ValueError):  # /proc cannot be read as expected: the error itself is reported anyway
            for line in conflicts.explain(error, worker.cgroup, _siblings(worker)):
                worker.log.error("%s", line)


def _siblings(worker: Worker) -> set[int]:
    """Return the pids of the workers that were forked by the same start or reload."""
    generation = worker.slot[Field.GENERATION]
    return {slot[Field.PID] for slot in worker.board.taken() if slot[Field.GENERATION] == generation}
