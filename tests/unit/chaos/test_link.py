"""What the lossy link notes of a packet that it drops: until when its connection waits."""

from __future__ import annotations

import struct

import pytest

from tests.chaos.evidence import Segment, Stall
from tests.chaos.link import Losses, parse

PORT = 40001
ACK, PSH, SYN, FIN = 0x10, 0x08, 0x02, 0x01


def packet(source: int, target: int, flags: int, content: bytes = b"", protocol: int = 6) -> bytes:
    """Return a packet of TCP over IPv4, without what the link does not read."""
    options = b"\1" * 12
    tcp = struct.pack("!HHIIBB6x", source, target, 1, 1, (20 + len(options)) // 4 << 4, flags) + options
    length = 20 + len(tcp) + len(content)
    return struct.pack("!BxHxxxxxBxx4x4x", 0x45, length, protocol) + tcp + content


@pytest.mark.parametrize(
    ("flags", "content", "is_sent_again"),
    [(ACK, b"", False), (ACK | PSH, b"x", True), (SYN, b"", True), (ACK | FIN, b"", True)],
)
def test_what_a_packet_is(flags: int, content: bytes, is_sent_again: bool) -> None:
    assert parse(packet(PORT, 8000, flags, content), to_server=True) == Segment(PORT, True, is_sent_again)
    assert parse(packet(8000, PORT, flags, content), to_server=False) == Segment(PORT, False, is_sent_again)


def test_what_is_no_packet_of_tcp() -> None:
    assert parse(packet(PORT, 8000, ACK, protocol=17), to_server=True) is None
    assert parse(b"\x60" + bytes(60), to_server=True) is None  # IPv6


def test_a_connection_waits_until_its_sender_has_sent_again() -> None:
    losses = Losses()
    losses.drop(Segment(PORT, True, True), 1.0)
    losses.forward(Segment(PORT + 1, True, True), 1.1)  # another connection
    losses.forward(Segment(PORT, False, True), 1.2)  # the other way
    losses.forward(Segment(PORT, True, False), 1.3)  # an acknowledgment
    assert losses.stalls == []
    losses.forward(Segment(PORT, True, True), 1.4)
    losses.forward(Segment(PORT, True, True), 1.5)
    assert losses.stalls == [Stall(PORT, 1.0, 1.4)]


def test_a_lost_acknowledgment_delays_until_the_next_packet() -> None:
    losses = Losses()
    losses.drop(Segment(PORT, False, False), 1.0)
    losses.forward(Segment(PORT, True, True), 1.2)
    assert losses.stalls == [Stall(PORT, 1.0, 1.2)]
    assert [(packet.at, packet.is_lost) for packet in losses.packets] == [(1.0, True), (1.2, False)]


def test_what_is_never_sent_again_delays_until_the_end() -> None:
    losses = Losses()
    losses.drop(Segment(PORT, True, True), 1.0)
    losses.end(3.0)
    losses.end(4.0)
    assert losses.stalls == [Stall(PORT, 1.0, 3.0)]
