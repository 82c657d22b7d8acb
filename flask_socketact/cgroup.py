"""The control groups that systemd keeps processes in: cgroups(7), and systemd's CONTROL_GROUP_INTERFACE.

A service has one, and so has the scope that the relay moves its workers to.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

#: Where the hierarchy is mounted: the unified one; or beside others, in a hybrid set-up.
_ROOTS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/systemd"), Path("/sys/fs/cgroup/unified"))

#: Names of systemd's hierarchies in /proc/PID/cgroup; a machine may have both, and use one.
_UNIFIED, _LEGACY = "", "name=systemd"


def of(pid: int) -> str | None:
    """Return the control group of a process, as ``/system.slice/app.service``; None when the process has gone."""
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
    except OSError:
        return None
    paths = {controllers: path for _, controllers, path in (line.split(":", 2) for line in lines)}
    return paths[_UNIFIED] if paths.get(_UNIFIED, "/") != "/" else paths.get(_LEGACY, "/")


def processes(group: str) -> list[int]:
    """Return the pids of the processes in `group`; none when it has gone."""
    for root in _ROOTS:
        try:
            return [int(pid) for pid in (root / group.lstrip("/") / "cgroup.procs").read_text().split()]
        except OSError:
            continue
    return []


def relayed(service: str) -> Iterator[str]:
    """Return the control groups of scopes that workers of `service` have been moved to."""
    slice_, _, unit = service.rpartition("/")
    scope = re.compile(re.escape(unit.removesuffix(".service")) + r"-drain-\d+\.scope")
    for root in _ROOTS:
        try:
            names = os.listdir(root / slice_.lstrip("/"))
        except OSError:
            continue
        return (f"{slice_}/{name}" for name in names if scope.fullmatch(name))
    return iter(())


def workers(group: str) -> list[int]:
    """Return the pids of the processes in `group` that nobody there has started: programs of requests are left out."""
    pids = processes(group)
    return [pid for pid in pids if _parent(pid) not in pids]


def _parent(pid: int) -> int:
    """Return the pid of the parent of a process, 0 when the process has gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
