"""Why a worker did not boot: another worker, of its own or an old generation, holds the port or the lock it needs."""

from __future__ import annotations

import errno
import os
from collections.abc import Container, Iterator

from flask_socketact.handover import protocol
from flask_socketact.systemd import cgroup, holders

#: Errors of a lock that another process holds: flock(2), fcntl(2).
_LOCKED = (errno.EAGAIN, errno.EACCES)


#: By whether the holder is a worker of the same generation.
_REMEDIES = {
    True: "All workers load the application: use one worker (--workers 1), or open it outside the application",
    False: "Old and new workers run at the same time: see docs/restarts.md, Overlap",
}


def explain(error: BaseException, service: str, siblings: Container[int]) -> list[str]:
    """Return which process holds what `error` says is in use, and what to do: a line for each.

    :param service: control group of the service
    :param siblings: pids of workers of the same generation
    """
    numbers = {cause.errno for cause in _causes(error) if isinstance(cause, OSError)}
    found: list[holders.Holder] = []
    if errno.EADDRINUSE in numbers:
        # We hold the listeners from systemd, too.
        found += holders.listeners(_others(service), but=holders.sockets_of(os.getpid()))
    if numbers.intersection(_LOCKED):
        found += holders.locks(_others(service))
    return sorted({f"{holder}. {_REMEDIES[holder.pid in siblings]}" for holder in found})


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _others(service: str) -> Iterator[int]:
    """Yield the pids of the processes of a service and its scopes, without this process."""
    for group in (service, *protocol.scopes(service)):
        yield from (pid for pid in cgroup.processes(group) if pid != os.getpid())
