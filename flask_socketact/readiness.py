"""How the master learns that a worker accepts, or why it never will: one message from each worker."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable

from gunicorn.workers.base import Worker

from flask_socketact.errors import describe


class Readiness:
    """The socket of one master. Made before the first fork; every worker writes to it."""

    def __init__(self) -> None:
        # Keeps messages apart, as a pipe does not; and takes more than the ten of a datagram socket.
        self._read, self._write = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._read.setblocking(False)
        self.accepting: set[int] = set()
        self._failures: dict[int, str] = {}

    def watch(self, worker: Worker) -> None:
        """Let `worker` report its first heartbeat, or what it has failed with before. Called before it is forked.

        Every worker class of gunicorn calls ``notify()`` in its main loop and nowhere
        else: when it does so first, the application is loaded and the loop accepts.
        """
        heartbeat = worker.notify
        init_process = worker.init_process

        def first_heartbeat() -> None:
            worker.notify = heartbeat
            self._report("")
            heartbeat()

        def init_or_report() -> None:
            try:
                init_process()
            except Exception as error:
                if not worker.booted:
                    self._report(describe(error))
                raise

        worker.notify = first_heartbeat
        worker.init_process = init_or_report

    def collect(self, alive: Iterable[int]) -> None:
        """Read the reports, and forget workers that are not among the pids `alive`."""
        while True:
            try:
                pid, _, reason = self._read.recv(4096).decode(errors="replace").partition(" ")
            except BlockingIOError:
                break
            if reason:
                self._failures[int(pid)] = reason
            else:
                self.accepting.add(int(pid))
        self.accepting.intersection_update(alive)

    def failure(self, pid: int) -> str | None:
        """Return, once, why the worker `pid` could not boot; None when it has not said so."""
        return self._failures.pop(pid, None)

    def _report(self, reason: str) -> None:
        self._write.send(f"{os.getpid()} {reason}".encode(errors="replace"))
