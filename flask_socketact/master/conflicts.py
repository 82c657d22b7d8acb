"""What a worker cannot have because another one holds it, of its own generation or from before."""

from __future__ import annotations

import errno
import os
from collections.abc import Container, Iterator

from flask_socketact.systemd import cgroup, holders

#: An exclusive lock that somebody has: flock(2), fcntl(2).
_LOCKED = (errno.EAGAIN, errno.EACCES)


#: What can be done about it: it is another worker of the same start or reload, or one from before.
_REMEDIES = {
    True: "All workers load the application: let one of them have it (--workers 1), or none",
    False: "Old and new workers live at the same time: see docs/systemd.md, Overlap",
}


def explain(error: BaseException, service: str, siblings: Container[int]) -> list[str]:
    """Return who of a service, by its control group, holds what `error` says cannot be had, and what can be done about
    it: a line for each. `siblings`: the pids of workers of the same generation."""
    numbers = {cause.errno for cause in _causes(error) if isinstance(cause, OSError)}
    found: list[holders.Holder] = []
    if errno.EADDRINUSE in numbers:
        # What systemd passes we have, too.
        found += holders.listeners(_others(service), but=holders.sockets_of(os.getpid()))
    if numbers.intersection(_LOCKED):
        found += holders.locks(_others(service))
    return sorted({f"{holder}. {_REMEDIES[holder.pid in siblings]}" for holder in found})


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _others(service: str) -> Iterator[int]:
    """Yield the processes of a service, and those of its scopes, but this one."""
    for group in (service, *cgroup.relayed(service)):
        yield from (pid for pid in cgroup.processes(group) if pid != os.getpid())
