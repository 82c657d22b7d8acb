"""How the master learns that a worker accepts: the worker's pid, once, over a pipe."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable

from gunicorn.workers.base import Worker

_PID = struct.Struct("=i")


class Readiness:
    """The pipe of one master. Made before the first fork; every worker writes to it."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.accepting: set[int] = set()

    def watch(self, worker: Worker) -> None:
        """Let `worker` report its first heartbeat. Called before it is forked.

        Every worker class of gunicorn calls ``notify()`` in its main loop and nowhere
        else: when it does so first, the application is loaded and the loop accepts.
        """
        heartbeat = worker.notify

        def first_heartbeat() -> None:
            worker.notify = heartbeat
            os.write(self._write, _PID.pack(os.getpid()))
            heartbeat()

        worker.notify = first_heartbeat

    def collect(self, alive: Iterable[int]) -> None:
        """Read the reports, and forget workers that are not among the pids `alive`."""
        try:
            reports = os.read(self._read, 4096)
        except BlockingIOError:
            reports = b""
        self.accepting.update(pid for (pid,) in _PID.iter_unpack(reports))
        self.accepting.intersection_update(alive)
