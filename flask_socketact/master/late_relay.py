"""A restart that systemd begins without ``ExecStop=``, in a start or a reload: the relay is not called.

systemd starts the relay's unit after the service, and after a reload that follows at once. A restart in this reload
finds no unit to stop, and signals all processes.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from gunicorn.errors import HaltServer

from flask_socketact.errors import ManagerError
from flask_socketact.shared.service_counters import find_folder
from flask_socketact.systemd import manager

if TYPE_CHECKING:
    from flask_socketact.master.pool import Pool

#: ``NAME-watchdog.path`` sees this file, and root moves the workers: handover/relay.
_FILE = "watchdog"
#: How long to wait for that, in seconds.
_PATIENCE = 3.0
_POLL = 0.02
_PAUSE = 0.1  #: between two questions to systemd, in seconds
#: ``SubState=`` of a service whose processes get SIGTERM from systemd, before or after ``ExecStop=``.
_SIGNALED = "stop-sigterm"


def is_needed(master: Pool) -> bool:
    """Return whether systemd ends the service of `master` without ``ExecStop=``, in order to start it again.

    False if it does not answer.
    """
    service = os.path.basename(master.cgroup or "") if master.systemd else ""
    deadline = time.monotonic() + manager.QUICK
    while service.endswith(".service") and time.monotonic() < deadline:
        try:
            return _is_started_again(service)
        except (OSError, ManagerError):
            time.sleep(_PAUSE)  # systemd may have signaled our systemctl as well
    return False


def _is_started_again(service: str) -> bool:
    """:raises ManagerError: systemd does not answer."""
    ours = manager.of_process()
    if ours.show(service, "SubState", seconds=manager.QUICK)["SubState"] != _SIGNALED:
        return False
    return ours.job(service, seconds=manager.QUICK) in ("restart", "start")


def move_workers(master: Pool) -> str | None:
    """Let root move the workers to a scope, and return its name. They drain already, but the next generation need not
    wait for them. Return None if root does not, as in a user manager, where there is no root."""
    folder = find_folder()
    if folder is None or manager.of_process().user:
        return None
    try:
        (folder / _FILE).write_bytes(b"")
    except OSError:
        return None
    deadline = time.monotonic() + _PATIENCE
    while master.WORKERS and time.monotonic() < deadline:
        if scope := master.forget_relayed():
            return scope
        with suppress(HaltServer):  # a worker that was loading has failed
            master.reap_workers()
        time.sleep(_POLL)
    return None
