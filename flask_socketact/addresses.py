"""IPv4 addresses as a dual-stack listener has them: ``::ffff:127.0.0.1`` (RFC 4291, 2.5.5.2)."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Address, IPv6Network

_MAPPED = IPv6Network("::ffff:0:0/96")


def unmapped(host: str) -> str:
    """Return the IPv4 address that is mapped to `host`, and any other address, or text, as it is."""
    if ":" not in host or "ffff" not in host.lower():  # nearly all; IPv6Address() takes a microsecond or more
        return host
    try:
        plain = IPv6Address(host).ipv4_mapped
    except ValueError:
        return host
    return host if plain is None else str(plain)


def unmapped_network(network: IPv4Network | IPv6Network) -> IPv4Network | IPv6Network:
    """Return the IPv4 network that is mapped to `network`, and any other as it is; ``::/0`` has IPv6 addresses only."""
    if not isinstance(network, IPv6Network) or not network.subnet_of(_MAPPED):
        return network
    first = network.network_address.ipv4_mapped
    return IPv4Network((str(first), network.prefixlen - _MAPPED.prefixlen))
