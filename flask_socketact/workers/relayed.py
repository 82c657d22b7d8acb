"""Relayed workers: the relay has moved them to a scope, where they keep serving while their service restarts."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from flask_socketact.errors import ManagerError
from flask_socketact.handover.steps import Step, reached
from flask_socketact.systemd import cgroup, manager, message_ids, unit

if TYPE_CHECKING:
    from flask_socketact.workers.base import BaseWorker

#: How long a worker whose master has exited waits to be relayed, before it concludes that the master has died. When
#: WatchdogSec= has expired, systemd kills the master first, and relays the workers then. Seconds.
RELAY_TIMEOUT = 2.0


class Relayed:
    """The state of one worker that may have been relayed."""

    def __init__(self, worker: BaseWorker) -> None:
        self._worker = worker
        self._is_moved = False
        #: SIGURG or SIGTERM has come: a sibling or the next generation reads the mailbox. SIGTERM may come just before
        #: the worker is moved: when the master is killed in a restart, systemd signals all workers.
        self.may_hand_over = False
        self.stop_signaled = False  #: SIGWINCH has come: call confirm_stop()
        self._orphaned_since: float | None = None  # CLOCK_MONOTONIC, seconds
        self._is_orphaned = False

    def is_moved(self) -> bool:
        """Return whether the relay has moved this worker out of the service."""
        service = self._worker.cgroup
        if not self._is_moved and service is not None:
            self._is_moved = cgroup.of(os.getpid()) not in (service, None)  # None: no free descriptor to read it
        return self._is_moved

    def confirm_stop(self) -> bool:
        """Return whether the scope is stopping, as SIGWINCH says. An application can send this signal, too."""
        self.stop_signaled = False
        scope = os.path.basename(cgroup.of(os.getpid()) or "")
        if is_stopping(scope):
            return True
        self._worker.log.warning("SIGWINCH ignored: %s is not stopping (pid: %s)", scope, os.getpid())
        return False

    def check_master(self) -> bool:
        """Return False if the master has died, and begin to drain then.

        Return True if the master is running, or has exited because this worker was relayed.
        """
        worker = self._worker
        if self._is_orphaned or worker.ppid == os.getppid():
            return not self._is_orphaned
        now = time.monotonic()
        self._orphaned_since = self._orphaned_since or now
        if self.is_moved():
            reached(Step.WORKER_IS_RELAYED)
            worker.ppid = os.getppid()  # the service manager, from now on
            worker.log.info(
                "Relayed: this worker keeps serving while the service restarts (pid: %s)",
                os.getpid(),
                extra=message_ids.RELAYED,
            )
        elif now - self._orphaned_since > RELAY_TIMEOUT:
            self._is_orphaned = True
            worker.alive = False
            worker.log.info("The master has died: this worker drains: %s", worker)
        return not self._is_orphaned


def is_stopping(scope: str) -> bool:
    """Return whether the service manager is stopping a scope. True if it does not respond."""
    try:
        shown = manager.of_process().show(scope, "ActiveState", seconds=manager.QUICK)
        return shown["ActiveState"] not in unit.ACTIVE_STATES
    except (OSError, ManagerError):
        return True
