"""The loader, as the master sees it: a process that loads the application once, and forks the workers of a generation.

The two talk over a socket: the loader reports that it has loaded the application, or why not. Then each message of the
master asks for a worker, and is answered by its pid, or the reason why there is none.
"""

from __future__ import annotations

import math
import os
import select
import signal
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING
from weakref import WeakSet

from gunicorn.workers.base import Worker

from flask_socketact.linux import process_control
from flask_socketact.master.failures import Failure
from flask_socketact.master.load_limit import STACK_TIME, too_slow
from flask_socketact.master.loader_process import LOADED, LoaderProcess
from flask_socketact.master.two_step_fork import FORK_TIMEOUT, MAX_MESSAGE

if TYPE_CHECKING:
    from flask_socketact.master.pool import Pool

#: How long a loader that is not needed any more may take to exit. Seconds.
EXIT_TIMEOUT = 5.0
#: When a process exits, its sockets are closed at most so long before. Seconds.
EXIT_NOTICE = 0.5

#: All loaders of this process: the old one stays until a reload has succeeded.
_loaders: WeakSet[Loader] = WeakSet()


class Loader:
    """A loader."""

    def __init__(self, pool: Pool) -> None:
        """Fork a loader, which begins to load the application.

        :raises OSError: no process can be forked.
        """
        self.has_loaded = False
        self.was_told_to_exit = False  #: by SIGTERM, which systemd sends to all processes when it stops a service
        self._has_failed = False
        self.generation = pool.generation
        self._limit = pool.load_timeout
        self._load_by = time.monotonic() + self._limit + STACK_TIME
        self._exit_by = math.inf  # after end()
        self._exit: os.waitid_result | None = None
        self._process = -1  # descriptor of the process: pidfd_open(2)
        process_control.become_subreaper()  # the loader's workers are to be children of the master
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        theirs.settimeout(None)  # the configuration may have set a default
        self._control.settimeout(0)
        _loaders.add(self)
        try:
            self.pid = os.fork()
        except OSError:
            self._control.close()
            theirs.close()
            raise
        if not self.pid:
            LoaderProcess(pool, theirs).run()
        theirs.close()
        self._process = os.pidfd_open(self.pid)

    def look(self) -> Failure | None:
        """Return why the loader has failed, or has exited; None while it has not."""
        has_exited = self._has_exited(0)
        try:
            kind, *reason = self._receive()
        except BlockingIOError:
            return Failure.known(self._describe_exit()) if has_exited else self._overdue()
        except OSError:
            return Failure.known(self._describe_exit())
        self.has_loaded = self.has_loaded or kind == LOADED
        self._has_failed = bool(reason)
        return Failure(*reason) if reason else None

    def fork(self, worker: Worker, rotations: int) -> int | Failure:
        """Let the loader fork `worker`, and return its pid, or why it has not been forked.

        :param rotations: how often the log files were rotated
        """
        message = f"{worker.age} {worker.slot.index} {rotations}".encode()
        try:
            socket.send_fds(self._control, [message], [worker.tmp.fileno()])
            if not _readable(FORK_TIMEOUT, self._control.fileno(), self._process):
                self._kill()
                return Failure.known(f"loader {self.pid} killed: it has not forked a worker within {FORK_TIMEOUT:g} s")
            pid, *reason = self._receive()
        except OSError:
            return Failure.known(self._describe_exit())
        return Failure(*reason) if reason else int(pid)

    def reap(self) -> None:
        """Note how the process has exited, if it has, before gunicorn reaps it."""
        with suppress(ChildProcessError):
            self._exit = self._exit or os.waitid(os.P_PIDFD, self._process, os.WEXITED | os.WNOHANG)

    def end(self) -> None:
        """Let the loader exit when the workers of its generation have exited; at once if it still loads."""
        if not (self.has_loaded or self._has_failed):
            self._send(signal.SIGTERM)
        self._control.close()

    def is_gone(self, now: float, *, is_needed: bool) -> bool:
        """Return whether a loader that was told to end has exited. One that does not is killed.

        :param now: CLOCK_MONOTONIC, in seconds
        :param is_needed: whether workers of its generation run
        """
        if self._has_exited(0):
            self.close()
            return True
        if not is_needed:
            self._exit_by = min(self._exit_by, now + EXIT_TIMEOUT)
        if now > self._exit_by:
            self._kill()
        return False

    def close(self) -> None:
        """Close the descriptors; also in a process that was forked, which has inherited them."""
        self._control.close()
        if self._process >= 0:
            os.close(self._process)
            self._process = -1

    def _has_exited(self, seconds: float) -> bool:
        """Return whether the process has exited, or exits within `seconds`. Its end of the socket does not tell: a
        process that the application has started may have it, too."""
        return _readable(seconds, self._process)

    def _receive(self) -> list[str]:
        """Return the lines of the next message.

        :raises OSError: there is none.
        """
        message = self._control.recv(MAX_MESSAGE)
        if not message:
            raise ConnectionResetError("the loader has closed the socket")
        return message.decode(errors="replace").split("\n")

    def _overdue(self) -> Failure | None:
        if self.has_loaded or time.monotonic() <= self._load_by:
            return None
        self._kill()
        return too_slow(f"loader {self.pid}", self._limit)

    def _kill(self) -> None:
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._process, number)

    def _describe_exit(self) -> str:
        """Return how the loader has exited, or why it has closed the socket."""
        has_exited = self._has_exited(EXIT_NOTICE)
        self.reap()
        if self._exit is None:  # gunicorn has reaped it, or it waits until its workers have exited
            self.was_told_to_exit = not has_exited
            how = "has exited" if has_exited else "was told to exit"
        elif self._exit.si_code == os.CLD_EXITED:
            how = f"has exited with status {self._exit.si_status}"
        else:
            self.was_told_to_exit = self._exit.si_status == signal.SIGTERM
            how = f"was ended by {_name(self._exit.si_status)}"
        return f"loader {self.pid} {how}"


def _name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # one of the real-time signals
        return f"signal {number}"


def _readable(seconds: float, *descriptors: int) -> bool:
    """Return whether one of the descriptors can be read, or can within `seconds`."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(seconds * 1000))


def _close_all() -> None:
    for loader in _loaders:
        loader.close()
    _loaders.clear()


# Neither the workers nor another loader must keep the master's end of the socket open.
os.register_at_fork(after_in_child=_close_all)
