"""Control groups, in which systemd keeps the processes of a unit: cgroups(7), and systemd's CONTROL_GROUP_INTERFACE.

A service has one, and so has the scope to which the relay moves its workers.
"""

from __future__ import annotations

import os
from pathlib import Path

from flask_socketact.linux import proc

#: Where the hierarchy is mounted: the unified one, or in a hybrid set-up systemd's own next to others.
ROOTS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/systemd"), Path("/sys/fs/cgroup/unified"))

#: Names of systemd's hierarchies in /proc/PID/cgroup. A machine may have both, and use one.
_UNIFIED, _LEGACY = "", "name=systemd"


def of(pid: int) -> str | None:
    """Return the control group of a process, as ``/system.slice/app.service``; None when the process has exited."""
    try:
        lines = (proc.PROC / f"{pid}/cgroup").read_text().splitlines()
    except OSError:
        return None
    paths = {controllers: path for _, controllers, path in (line.split(":", 2) for line in lines)}
    return paths[_UNIFIED] if paths.get(_UNIFIED, "/") != "/" else paths.get(_LEGACY, "/")


def processes(group: str) -> list[int]:
    """Return the pids of the processes in a control group; none when it does not exist."""
    for root in ROOTS:
        try:
            return [int(pid) for pid in (root / group.lstrip("/") / "cgroup.procs").read_text().split()]
        except OSError:
            continue
    return []


def children(group: str) -> list[str]:
    """Return the names of the control groups in a control group, and of its files; none when it does not exist."""
    for root in ROOTS:
        try:
            return os.listdir(root / group.lstrip("/"))
        except OSError:
            continue
    return []


def workers(group: str) -> list[int]:
    """Return the pids of the processes in `group` without child processes of other processes there."""
    pids = processes(group)
    return [pid for pid in pids if proc.parent_of(pid) not in pids]
