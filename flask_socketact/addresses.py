"""IPv4-mapped IPv6 addresses, which dual-stack listeners report: ``::ffff:127.0.0.1`` (RFC 4291, section 2.5.5.2)."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Address, IPv6Network

_MAPPED = IPv6Network("::ffff:0:0/96")


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
