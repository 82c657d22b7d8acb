"""What a new worker cannot have because one from before holds it: both live at the same time."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

from flask_socketact.systemd import cgroup, holders

#: An exclusive lock that somebody has: flock(2), fcntl(2).
_LOCKED = (errno.EAGAIN, errno.EACCES)


def explain(error: BaseException, service: str) -> list[str]:
    """Return who of a service, by its control group, holds what `error` says cannot be had: a line for each."""
    numbers = {cause.errno for cause in _causes(error) if isinstance(cause, OSError)}
    found: list[holders.Holder] = []
    if errno.EADDRINUSE in numbers:
        # What systemd passes we have, too.
        found += holders.listeners(_others(service), but=holders.sockets_of(os.getpid()))
    if numbers.intersection(_LOCKED):
        found += holders.locks(_others(service))
    return sorted(set(map(str, found)))


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _others(service: str) -> Iterator[int]:
    """Yield the processes of a service, and those of its scopes, but this one."""
    for group in (service, *cgroup.relayed(service)):
        yield from (pid for pid in cgroup.processes(group) if pid != os.getpid())
