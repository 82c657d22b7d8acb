"""Who listens at an address: the manager for a socket unit, or another process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from flask_socketact.linux import socket_queues
from flask_socketact.systemd import holders

if TYPE_CHECKING:
    from flask_socketact.systemd.manager import Manager, Unit

_EVERYWHERE = ("[::]", "0.0.0.0")  # noqa: S104 (an address to compare with)


def missing(unit: Unit, manager: Manager) -> list[str]:
    """Return the addresses of a socket unit, as its file has them now, at which the manager does not listen: it opens
    them when the unit starts, and knows no better than who looks at the sockets themselves."""
    if manager.user or os.geteuid() != 0:  # whose manager's descriptors are hidden
        return [address for address in unit.listens("Stream") if socket_queues.length_at(address) is None]
    held = {holder.what for holder in holders.listeners([1])}
    return [address for address in unit.listens("Stream") if address not in held]


def occupant(address: str, manager: Manager, names: tuple[str, ...]) -> str:
    """Return who listens at an address, or where it would be in the way, apart from the socket units `names`: a socket
    unit, or a process; empty if nobody does, or one must not look."""
    for other, unit in manager.listening():
        if unit not in names and _collide(address, other):
            return unit
    for holder in holders.listeners(_processes()):
        if holder.pid != 1 and _collide(address, holder.what):
            return holder.who
    return ""


def _collide(address: str, other: str) -> bool:
    host, _, port = address.rpartition(":")
    other_host, _, other_port = other.rpartition(":")
    if "/" in address or "/" in other or not port.isdigit():
        return address == other
    return port == other_port and (host == other_host or bool({host, other_host}.intersection(_EVERYWHERE)))


def _processes() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
