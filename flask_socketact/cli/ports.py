"""Who listens at an address: the manager for a socket unit, or another process."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from flask_socketact.addresses import unmapped
from flask_socketact.linux import socket_queues
from flask_socketact.systemd import cgroup, holders

if TYPE_CHECKING:
    from flask_socketact.systemd.manager import Manager, Unit

#: All addresses, of IPv4, and of IPv6 and IPv4 (BindIPv6Only=default).
_ALL_IPV4, _ALL = "0.0.0.0", "::"  # noqa: S104 (an address to compare with)


@dataclass(frozen=True)
class Lost:
    """Addresses of active socket units at which the manager does not listen."""

    addresses: tuple[str, ...]
    kept: tuple[str, ...]  #: of these, those at which processes of the service still do


def lost(sockets: Iterable[Unit], service: Unit, manager: Manager) -> Lost:
    """See which addresses of a service's socket units the manager has closed."""
    addresses = tuple(address for unit in sockets if unit.is_active for address in missing(unit, manager))
    return Lost(addresses, tuple(kept_by_workers(addresses, service)))


def describe_lost(addresses: Iterable[str], *, is_kept: bool) -> str:
    """Say of addresses that the manager has closed whether processes of the service still listen there."""
    where = ", ".join(addresses)
    if is_kept:
        return f"systemd no longer holds {where}; only the workers that run do: the next restart fails"
    return f"nobody listens at {where}: systemd holds what the units had before a change"


def missing(unit: Unit, manager: Manager) -> list[str]:
    """Return the addresses of a socket unit, as its file has them now, at which the manager does not listen: it opens
    them when the unit starts, and knows no better than who looks at the sockets themselves."""
    if manager.user or os.geteuid() != 0:  # whose manager's descriptors are hidden
        return [address for address in unit.listens("Stream") if socket_queues.length_at(address) is None]
    held = {holder.what for holder in holders.listeners([1])}
    return [address for address in unit.listens("Stream") if address not in held]


def kept_by_workers(addresses: Iterable[str], service: Unit) -> list[str]:
    """Return at which of the addresses processes of a service listen, those from before a restart included."""
    groups = [*filter(None, [service["ControlGroup"]]), *service.scopes]
    kept = {holder.what for group in groups for holder in holders.listeners(cgroup.processes(group))}
    return [address for address in addresses if address in kept]


def occupant(address: str, manager: Manager, names: tuple[str, ...]) -> str:
    """Return who listens at an address, or where it would be in the way, apart from the socket units `names`: a socket
    unit, or a process; empty if nobody does, or one must not look."""
    for other, unit in manager.listening():
        if unit not in names and collide(address, other):
            return unit
    for holder in holders.listeners(_processes()):
        if holder.pid != 1 and collide(address, holder.what):
            return holder.who
    return ""


def collide(address: str, other: str) -> bool:
    """Return whether one machine cannot listen at both, as ``ListenStream=`` has them."""
    if not (_is_tcp(address) and _is_tcp(other)):
        return address == other
    (host, port), (other_host, other_port) = _host_and_port(address), _host_and_port(other)
    hosts = {host, other_host}
    ipv4_in_all = _ALL_IPV4 in hosts and not any(":" in each for each in hosts)
    return port == other_port and (len(hosts) == 1 or _ALL in hosts or ipv4_in_all)


def _is_tcp(address: str) -> bool:
    return not address.startswith(("/", "@")) and address.rpartition(":")[2].isdigit()


def _host_and_port(address: str) -> tuple[str, str]:
    """Return host and port of a TCP address; a port alone is on all addresses."""
    host, _, port = address.rpartition(":")
    return unmapped(host.strip("[]")) or _ALL, port


def _processes() -> Iterator[int]:
    return (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit())
