"""IPv4-mapped addresses of dual-stack listeners."""

from __future__ import annotations

import socket
from ipaddress import ip_network

import pytest

from flask_socketact.addresses import unmapped, unmapped_network


@pytest.mark.parametrize(
    ("host", "plain"),
    [
        ("::ffff:127.0.0.1", "127.0.0.1"),
        ("::FFFF:10.1.2.3", "10.1.2.3"),
        ("::ffff:7f00:1", "127.0.0.1"),
        ("0:0:0:0:0:ffff:127.0.0.1", "127.0.0.1"),
        ("127.0.0.1", "127.0.0.1"),
        ("::1", "::1"),
        ("fd00::ffff", "fd00::ffff"),
        ("fe80::ffff%eth0", "fe80::ffff%eth0"),
        ("::ffff:0:127.0.0.1", "::ffff:0:127.0.0.1"),  # RFC 2765, translated: another kind
        ("::127.0.0.1", "::127.0.0.1"),
        ("::ffff:256.0.0.1", "::ffff:256.0.0.1"),
        ("ffff:", "ffff:"),
        ("", ""),
    ],
)
def test_address(host: str, plain: str) -> None:
    assert unmapped(host) == plain


def test_peer_of_a_dual_stack_listener() -> None:
    """As the kernel reports it."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as listener:
        with socket.create_connection(("127.0.0.1", listener.getsockname()[1])):
            connection, peer = listener.accept()
            connection.close()
    assert peer[0] != "127.0.0.1"
    assert unmapped(peer[0]) == "127.0.0.1"


@pytest.mark.parametrize(
    ("network", "plain"),
    [
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("::ffff:127.0.0.1", "127.0.0.1/32"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("::/0", "::/0"),
        ("::fffe:0:0/95", "::fffe:0:0/95"),
        ("fd00::/8", "fd00::/8"),
        ("10.0.0.0/8", "10.0.0.0/8"),
    ],
)
def test_network(network: str, plain: str) -> None:
    assert unmapped_network(ip_network(network)) == ip_network(plain)
