"""The generations before ours, whose workers the relay has moved to scopes: told to go when we are ready."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from gunicorn.glogging import Logger

from flask_socketact import cgroup

#: A worker told to drain leaves by itself when its drain time is over. What is left so much later (a worker
#: that cannot, a program that a request has left behind) is ended. Seconds.
GRACE = 60.0
#: From SIGTERM to SIGKILL, in seconds.
LAST_GRACE = 10.0


class Predecessors:
    """The scopes beside the control group of a service; none outside systemd."""

    def __init__(self, service: str | None, log: Logger) -> None:
        self._service = service
        self._log = log
        self._told: dict[str, float] = {}  # scopes, and when they were

    def workers(self) -> list[int]:
        """Return the pids of workers that are still there."""
        return [pid for scope in self._scopes() for pid in cgroup.workers(scope)]

    def retire(self, drain_time: float) -> None:
        """Let the workers carry their idle connections to us, finish what they have and leave;
        called again, end what has not left long after `drain_time` (seconds)."""
        now = time.monotonic()
        for scope in self._scopes():
            if scope not in self._told:
                self._told[scope] = now
                self._signal(scope, signal.SIGURG)
            late = now - self._told[scope] - drain_time - GRACE
            if late > 0:
                self._end(scope, signal.SIGKILL if late > LAST_GRACE else signal.SIGTERM)

    def reopen_files(self) -> None:
        """Let the workers open their log files anew."""
        for scope in self._scopes():
            self._signal(scope, signal.SIGUSR1, lambda pid: _catches(pid, signal.SIGUSR1))

    def _scopes(self) -> list[str]:
        """Return their control groups, without that of our own workers, which we may see before we go."""
        ours = cgroup.ends_of_own_scope(os.getpid())
        return [scope for scope in cgroup.relayed(self._service or "") if not scope.endswith(ours)]

    def _end(self, scope: str, number: signal.Signals) -> None:
        pids = cgroup.processes(scope)
        self._log.warning("%s to processes %s of %s, which should have left", number.name, pids, scope)
        self._signal(scope, number)

    def _signal(self, scope: str, number: signal.Signals, wants: Callable[[int], bool] = lambda _: True) -> None:
        """Send a signal to the processes of a scope that want it; programs that requests have started ignore SIGURG."""
        for pid in filter(wants, cgroup.processes(scope)):
            with suppress(ProcessLookupError):
                process = os.pidfd_open(pid)
                try:
                    if cgroup.of(pid) == scope:  # and not another process with its number
                        signal.pidfd_send_signal(process, number)
                finally:
                    os.close(process)


def _catches(pid: int, number: signal.Signals) -> bool:
    """Whether a process has a handler for a signal: SIGUSR1 ends who has none."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:")).split()[1]
    return bool(int(caught, 16) >> (number - 1) & 1)
