"""The loader, as the master sees it: a process that loads the application once, and forks the workers of a generation.

The two talk over a socket: the loader reports that it has loaded the application, or why not. Then each message of the
master asks for a worker, and is answered by its pid, or the reason why there is none.
"""

from __future__ import annotations

import os
import signal
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING
from weakref import WeakSet

from gunicorn.workers.base import Worker

from flask_socketact import env
from flask_socketact.linux import process_control
from flask_socketact.master.failures import Failure
from flask_socketact.master.load_limit import STACK_TIME
from flask_socketact.master.loader_process import LOADED, LoaderProcess

if TYPE_CHECKING:
    from flask_socketact.master.pool import Pool

#: How long a loader may take to fork a worker, with the user's hook ``pre_fork``. The master waits meanwhile. Seconds.
FORK_TIMEOUT = 10.0
#: How long a process that was killed may take to exit. Seconds.
EXIT_TIMEOUT = 1.0
_MAX_MESSAGE = 4096

#: All loaders of this process: the old one stays until a reload has succeeded.
_loaders: WeakSet[Loader] = WeakSet()


class Loader:
    """A loader. It ends with its master, or when the master ends it."""

    def __init__(self, pool: Pool) -> None:
        """Fork a loader, which begins to load the application.

        :raises OSError: no process can be forked.
        """
        self.has_loaded = False
        self._limit = pool.load_timeout
        self._deadline = time.monotonic() + self._limit + STACK_TIME
        self._exit: os.waitid_result | None = None
        process_control.become_subreaper()  # the loader's workers are to be children of the master
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
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
        self._control.settimeout(0)
        try:
            kind, *reason = self._control.recv(_MAX_MESSAGE).decode(errors="replace").split("\n")
        except BlockingIOError:
            return self._overdue()
        except OSError:
            kind, reason = "", []
        if reason:
            return Failure(*reason)
        self.has_loaded = self.has_loaded or kind == LOADED
        return None if kind else Failure.known(self._describe_exit())

    def fork(self, worker: Worker) -> int | Failure:
        """Let the loader fork `worker`, and return its pid, or why it has not been forked."""
        self._control.settimeout(FORK_TIMEOUT)
        message = f"{worker.age} {worker.slot.index}".encode()
        try:
            socket.send_fds(self._control, [message], [worker.tmp.fileno()])
            pid, *reason = self._control.recv(_MAX_MESSAGE).decode(errors="replace").split("\n")
        except TimeoutError:
            self._kill()
            return Failure.known(f"loader {self.pid} killed: it has not forked a worker within {FORK_TIMEOUT:g} s")
        except OSError:
            pid, reason = "", []
        if reason:
            return Failure(*reason)
        return int(pid) if pid else Failure.known(self._describe_exit())

    def reap(self) -> None:
        """Note whether the loader has exited, and how."""
        with suppress(ChildProcessError):
            self._exit = self._exit or os.waitid(os.P_PIDFD, self._process, os.WEXITED | os.WNOHANG)

    def end(self) -> None:
        """End the loader. It runs nothing of the application any more, whose exit handlers are for its workers."""
        self._control.close()
        self._kill()
        os.close(self._process)

    def close(self) -> None:
        """Close what a process that the master has forked has inherited of this loader."""
        self._control.close()

    def _overdue(self) -> Failure | None:
        if self.has_loaded or time.monotonic() <= self._deadline:
            return None
        self._kill()
        return Failure.known(
            f"loader {self.pid} killed: did not load the application within {env.LOAD_TIMEOUT} = {self._limit:g} s"
        )

    def _kill(self) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._process, signal.SIGKILL)

    def _describe_exit(self) -> str:
        """Return how the loader has exited; it is ended if it has closed the socket only."""
        deadline = time.monotonic() + EXIT_TIMEOUT
        self._kill()
        self.reap()
        while self._exit is None and time.monotonic() < deadline:
            time.sleep(0.001)
            self.reap()
        how = "has exited"
        if self._exit is not None and self._exit.si_code == os.CLD_EXITED:
            how += f" with status {self._exit.si_status}"
        elif self._exit is not None:
            how = f"was ended by {signal.Signals(self._exit.si_status).name}"
        return f"loader {self.pid} {how}"


def _close_all() -> None:
    for loader in _loaders:
        loader.close()
    _loaders.clear()


# Neither the workers nor another loader must keep the master's end of the socket open.
os.register_at_fork(after_in_child=_close_all)
