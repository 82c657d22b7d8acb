"""Addresses of sockets in the format of ``ListenStream=`` (systemd.socket(5)), and IPv4-mapped IPv6 addresses, which
dual-stack listeners report: ``::ffff:127.0.0.1`` (RFC 4291, section 2.5.5.2)."""

from __future__ import annotations

import os
from ipaddress import IPv4Network, IPv6Address, IPv6Network
from typing import Any

_MAPPED = IPv6Network("::ffff:0:0/96")


def of_socket(address: Any) -> str:
    """Return the result of ``getsockname()`` in the format of ``ListenStream=``: ``127.0.0.1:8000``, ``[::1]:8000``,
    ``/run/app.sock``, ``@abstract``."""
    if isinstance(address, tuple):
        host, port, *_ = address
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return os.fsdecode(address).replace("\0", "@", 1)


def is_unix(address: str) -> bool:
    """Return whether an address is that of a Unix socket: a path, or a name in the abstract namespace."""
    return address.startswith(("/", "@"))


def unix_path(address: str) -> str:
    """Return the address of a Unix socket for connect(2), where an abstract name begins with NUL: unix(7)."""
    return f"\0{address[1:]}" if address.startswith("@") else address


def host_and_port(address: str) -> tuple[str, str]:
    """Return host and port of a TCP address; the host without brackets, and ``::`` (all addresses) for a port alone."""
    host, _, port = address.rpartition(":")
    return host.strip("[]") or "::", port


def unmapped(host: str) -> str:
    """Return the IPv4 address of an IPv4-mapped `host`; any other address or text unchanged."""
    if ":" not in host or "ffff" not in host.lower():  # the usual case; IPv6Address() takes a microsecond or more
        return host
    try:
        plain = IPv6Address(host).ipv4_mapped
    except ValueError:
        return host
    return host if plain is None else str(plain)


def unmapped_network(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    """Return the IPv4 network of an IPv4-mapped `network`; any other unchanged, ``::/0`` included."""
    if not isinstance(network, IPv6Network) or not network.subnet_of(_MAPPED):
        return network
    first = network.network_address.ipv4_mapped
    return IPv4Network((str(first), network.prefixlen - _MAPPED.prefixlen))
