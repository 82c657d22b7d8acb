"""The control groups that systemd keeps processes in: cgroups(7), and systemd's CONTROL_GROUP_INTERFACE.

A service has one, and so has the scope that the relay moves its workers to.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

#: Where the hierarchy is mounted: the unified one; or beside others, in a hybrid set-up.
ROOTS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/systemd"), Path("/sys/fs/cgroup/unified"))
PROC = Path("/proc")  #: proc(5)

#: What the relay puts after the name of a service: the pid of its master, and when that was started. The relay of
#: version 0.1.0, which a restart to another version still calls, leaves out when.
_SCOPE = r"-drain-(\d+)(?:-\d+)?\.scope"

#: Names of systemd's hierarchies in /proc/PID/cgroup; a machine may have both, and use one.
_UNIFIED, _LEGACY = "", "name=systemd"

#: Fields of /proc/PID/stat, from the one after the name of the process on: proc(5) has 4 and 22.
_PARENT, _START_TIME = 1, 19


def of(pid: int) -> str | None:
    """Return the control group of a process, as ``/system.slice/app.service``; None when the process has gone."""
    try:
        lines = (PROC / f"{pid}/cgroup").read_text().splitlines()
    except OSError:
        return None
    paths = {controllers: path for _, controllers, path in (line.split(":", 2) for line in lines)}
    return paths[_UNIFIED] if paths.get(_UNIFIED, "/") != "/" else paths.get(_LEGACY, "/")


def processes(group: str) -> list[int]:
    """Return the pids of the processes in `group`; none when it has gone."""
    for root in ROOTS:
        try:
            return [int(pid) for pid in (root / group.lstrip("/") / "cgroup.procs").read_text().split()]
        except OSError:
            continue
    return []


def relayed(service: str) -> Iterator[str]:
    """Return the control groups of scopes that workers of `service` have been moved to."""
    slice_, _, unit = service.rpartition("/")
    scope = re.compile(re.escape(unit.removesuffix(".service")) + _SCOPE)
    for root in ROOTS:
        try:
            names = os.listdir(root / slice_.lstrip("/"))
        except OSError:
            continue
        return (f"{slice_}/{name}" for name in names if scope.fullmatch(name))
    return iter(())


def master_of(scope: str) -> int:
    """Return the pid that the master of the workers in a scope had."""
    found = re.search(_SCOPE + "$", scope)
    return int(found[1]) if found else 0


def ends_of_own_scope(master: int) -> tuple[str, str]:
    """Return what the name of the scope of a living master's workers may end with.

    :raises OSError: the master has gone.
    """
    return f"-drain-{master}.scope", f"-drain-{master}-{_stat(master)[_START_TIME]}.scope"


def workers(group: str) -> list[int]:
    """Return the pids of the processes in `group` that nobody there has started: programs of requests are left out."""
    pids = processes(group)
    return [pid for pid in pids if _parent(pid) not in pids]


def _parent(pid: int) -> int:
    """Return the pid of the parent of a process, 0 when the process has gone."""
    try:
        return int(_stat(pid)[_PARENT])
    except OSError:
        return 0


def _stat(pid: int) -> list[str]:
    """Return the fields of ``/proc/PID/stat`` after the name of the process, which may have spaces and parentheses.

    :raises OSError: the process has gone.
    """
    return (PROC / f"{pid}/stat").read_text().rpartition(")")[2].split()
