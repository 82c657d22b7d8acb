"""Facts about a process from /proc: proc(5)."""

from __future__ import annotations

import mmap
from pathlib import Path

from flask_socketact.text import printable

PROC = Path("/proc")
#: Fields of /proc/PID/stat, counted from the one after the process's name: proc(5) numbers them 4 and 22.
_PARENT, _START_TIME = 1, 19


def exists(pid: int) -> bool:
    """Return whether a process with this PID exists."""
    return (PROC / str(pid)).exists()


def name_of(pid: int) -> str:
    """Return the name of a process, which it can change itself; ``?`` if it has exited."""
    try:
        return printable((PROC / f"{pid}/comm").read_text(errors="replace").rstrip("\n"))
    except OSError:
        return "?"


def parent_of(pid: int) -> int:
    """Return the PID of the parent of a process; 0 if the process has exited."""
    try:
        return int(_stat(pid)[_PARENT])
    except OSError:
        return 0


def start_time(pid: int) -> int:
    """Return when a process was started, in clock ticks since the boot.

    :raises OSError: it has exited.
    """
    return int(_stat(pid)[_START_TIME])


def resident_memory(pid: int) -> int | None:
    """Return the resident memory of a process, in bytes; None if it has exited."""
    try:
        return int((PROC / f"{pid}/statm").read_text().split()[1]) * mmap.PAGESIZE
    except OSError:
        return None


def wanted_cpu(pid: int) -> float:
    """Return for how long the main thread of a process has run, or has waited for a CPU, in seconds; 0.0 if that is
    unknown. See the kernel's documentation, scheduler/sched-stats.
    """
    try:
        running, waiting, _ = (PROC / f"{pid}/schedstat").read_text().split()
    except (OSError, ValueError):  # it has exited, or the kernel does not count
        return 0.0
    return (int(running) + int(waiting)) / 1e9


def is_runnable(pid: int) -> bool:
    """Return whether the main thread of a process runs, or waits for a CPU; False if the process has exited.

    For how long it has waited, :func:`wanted_cpu` tells only when it runs again.
    """
    try:
        return _stat(pid)[0] == "R"
    except OSError:
        return False


def catches(pid: int, number: int) -> bool:
    """Return whether a process has a handler for a signal; False if it has exited."""
    try:
        status = (PROC / f"{pid}/status").read_text(errors="replace")
    except OSError:
        return False
    caught = next(line for line in status.split("\n") if line.startswith("SigCgt:")).split()[1]
    return bool(int(caught, 16) >> (number - 1) & 1)


def _stat(pid: int) -> list[str]:
    """Return the fields of ``/proc/PID/stat`` after the process's name, which may contain spaces and parentheses.

    :raises OSError: the process has exited.
    """
    return (PROC / f"{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
