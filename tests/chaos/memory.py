"""Takes memory from a process, and gives it back: a limit of its data segment, far below what it has.

Containers have no controller of memory in their control groups. The limit is what a process sees of a shortage: it
keeps what it has, and allocations fail. That the kernel kills it then is a fault of its own.
"""

from __future__ import annotations

from tests.chaos.processes import Processes
from tests.support.machine import Machine

#: Root may lack CAP_SYS_RESOURCE in a container: it becomes the owner of the process.
_AS_OWNER = ("setpriv", "--reuid=app", "--regid=app", "--clear-groups", "prlimit")
#: Bytes. Linux ignores a limit of 0.
_LITTLE = "4096"


def limit(machine: Machine, pid: int) -> None:
    """Let a process get no more memory, if it still exists."""
    _set(machine, pid, _LITTLE)


def release(machine: Machine, processes: Processes) -> None:
    """Let all processes of the service get memory. First those that fork others, which get the same limit."""
    state = processes.state()
    for pid in (state.master, *state.loaders):
        _set(machine, pid, "unlimited")
    state = processes.state()
    for pid in (state.master, *state.loaders, *state.workers, *state.old):
        _set(machine, pid, "unlimited")


def _set(machine: Machine, pid: int, size: str) -> None:
    """Set the soft limit; a process may have ended."""
    if pid:
        machine.run(*_AS_OWNER, f"--pid={pid}", f"--data={size}:", check=False)
