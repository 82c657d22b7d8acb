"""A worker that the relay has moved to a scope, where it serves on while its service restarts."""

from __future__ import annotations

import os
import subprocess
import time
from typing import TYPE_CHECKING

from flask_socketact.errors import ManagerError
from flask_socketact.systemd import cgroup, manager, message_ids

if TYPE_CHECKING:
    from flask_socketact.workers.base import BaseWorker

#: How long after the death of its master a worker may be relayed: after WatchdogSec= it is ended first. Seconds.
RELAY_TIMEOUT = 2.0
#: How long the service manager may take to tell whether it stops a scope. Seconds.
MANAGER_TIMEOUT = 2.0


class Relayed:
    """Whether one worker has been relayed, and what it has heard since."""

    def __init__(self, worker: BaseWorker) -> None:
        self._worker = worker
        self._is_moved = False
        self.next_is_ready = False  #: the next generation has said that it is ready
        self.stop_signaled = False  #: of the scope; it is to be looked into
        self._orphaned_since: float | None = None  # CLOCK_MONOTONIC, seconds
        self._is_orphaned = False

    def is_moved(self) -> bool:
        """Whether the relay has moved this worker out of the service."""
        service = self._worker.cgroup
        if not self._is_moved and service is not None:
            self._is_moved = cgroup.of(os.getpid()) not in (service, None)  # None: no descriptor left to look
        return self._is_moved

    def confirm_stop(self) -> bool:
        """Whether the service stops, as SIGWINCH says: the application may have sent the signal itself."""
        self.stop_signaled = False
        scope = os.path.basename(cgroup.of(os.getpid()) or "")
        if stops(scope):
            return True
        self._worker.log.warning("SIGWINCH ignored: %s does not stop (pid: %s)", scope, os.getpid())
        return False

    def check_master(self) -> bool:
        """Whether the master is there, or has left because this worker was relayed; otherwise the drain begins."""
        worker = self._worker
        if self._is_orphaned or worker.ppid == os.getppid():
            return not self._is_orphaned
        now = time.monotonic()
        self._orphaned_since = self._orphaned_since or now
        if self.is_moved():
            worker.ppid = os.getppid()  # the service manager's, from now on
            worker.log.info("Serving on while the service restarts (pid: %s)", os.getpid(), extra=message_ids.RELAYED)
        elif now - self._orphaned_since > RELAY_TIMEOUT:
            self._is_orphaned = True
            worker.alive = False
            worker.log.info("The master has died, draining: %s", worker)
        return not self._is_orphaned


def stops(scope: str) -> bool:
    """Whether the manager stops a scope, or does not tell."""
    options = ("--user",) if os.getuid() and "/user@" in (cgroup.of(os.getpid()) or "") else ()
    command = ("systemctl", *options, "show", "--property=ActiveState", "--value", "--", scope)
    try:
        return manager.call(*command, seconds=MANAGER_TIMEOUT).stdout.strip() not in manager.ACTIVE_STATES
    except (OSError, ManagerError, subprocess.SubprocessError):
        return True
