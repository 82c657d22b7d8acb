"""What listens at an address: the service manager for a socket unit, or another process."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flask_socketact.addresses import host_and_port, is_unix, unmapped
from flask_socketact.handover import protocol
from flask_socketact.linux import socket_queues
from flask_socketact.systemd import cgroup, holders

if TYPE_CHECKING:
    from flask_socketact.systemd.manager import Manager
    from flask_socketact.systemd.unit import Unit

#: All IPv4 addresses; all IPv6 and IPv4 addresses (BindIPv6Only=default).
_ALL_IPV4, _ALL = "0.0.0.0", "::"  # noqa: S104 (only compared with)


@dataclass(frozen=True)
class Lost:
    """Addresses of active socket units at which the manager no longer listens."""

    addresses: tuple[str, ...]
    kept: tuple[str, ...]  #: those of them at which processes of the service still listen


def lost(sockets: Iterable[Unit], service: Unit, manager: Manager) -> Lost:
    """Return which addresses of a service's socket units the manager has closed."""
    addresses = tuple(address for unit in sockets if unit.is_active for address in missing(unit, manager))
    return Lost(addresses, tuple(kept_by_workers(addresses, service)))


def describe_lost(addresses: Iterable[str], *, is_kept: bool) -> str:
    """Describe addresses that the manager has closed.

    :param is_kept: whether processes of the service still listen there
    """
    where = ", ".join(addresses)
    if is_kept:
        return f"systemd no longer holds {where}, only the running workers do: the next restart fails"
    return f"nothing listens at {where}: systemd still holds the addresses from before the units changed"


def missing(unit: Unit, manager: Manager) -> list[str]:
    """Return the addresses in a socket unit's file at which the manager does not listen.

    The manager opens addresses when the unit starts, and does not report what it has open: the sockets themselves do.
    """
    if manager.user or os.geteuid() != 0:  # only root may read the manager's descriptors
        return [address for address in unit.listens("Stream") if socket_queues.length_at(address) is None]
    held = {holder.what for holder in holders.listeners([1])}
    return [address for address in unit.listens("Stream") if address not in held]


def kept_by_workers(addresses: Iterable[str], service: Unit) -> list[str]:
    """Return at which of the addresses processes of a service listen, including old workers in scopes."""
    groups = [*filter(None, [service["ControlGroup"]]), *protocol.scopes(service.control_group)]
    kept = {holder.what for group in groups for holder in holders.listeners(cgroup.processes(group))}
    return [address for address in addresses if address in kept]


def occupant(address: str, manager: Manager, names: tuple[str, ...]) -> str:
    """Return the socket unit or the process that listens at an address, or at one that excludes it.

    Empty if there is none, or its descriptors cannot be read.

    :param names: socket units that do not count
    """
    for other, unit in manager.listening():
        if unit not in names and collide(address, other):
            return unit
    for holder in holders.listeners(_processes()):
        if holder.pid != 1 and collide(address, holder.what):
            return holder.who
    return ""


def collide(address: str, other: str) -> bool:
    """Return whether two addresses, in the form of ``ListenStream=``, exclude each other."""
    if not (_is_tcp(address) and _is_tcp(other)):
        return address == other
    (host, port), (other_host, other_port) = host_and_port(address), host_and_port(other)
    hosts = {unmapped(host), unmapped(other_host)}
    ipv4_in_all = _ALL_IPV4 in hosts and not any(":" in each for each in hosts)
    return port == other_port and (len(hosts) == 1 or _ALL in hosts or ipv4_in_all)


def _is_tcp(address: str) -> bool:
    return not is_unix(address) and host_and_port(address)[1].isdigit()


def _processes() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
