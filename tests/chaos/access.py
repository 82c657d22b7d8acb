"""How clients reach the service: by the loopback, by a Unix socket, or by a slow and lossy link."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tests.chaos.evidence import Packet, Stall
from tests.chaos.link import SERVER, Link
from tests.chaos.processes import PORT, UNIX_SOCKET
from tests.chaos.schedule import Setup
from tests.support.machine import Address, Machine


@dataclass(frozen=True)
class Access:
    """What a client needs to connect, and what the link did to it."""

    enter: Callable[[], None]  #: called in the clients' thread: it moves it to their network
    address: Address
    round_trip: float = 0.0  #: seconds
    loss: float = 0.0  #: of packets, between 0 and 1
    stalls: Sequence[Stall] = ()  #: complete at the end of the block
    packets: Sequence[Packet] = ()  #: likewise


@contextmanager
def access(machine: Machine, setup: Setup, seed: int) -> Iterator[Access]:
    """Let clients reach the service for the length of the block."""
    if setup.unix:  # ss shows a Unix connection in the network of its client
        yield Access(machine.enter_network, str(machine.path(UNIX_SOCKET)))
    elif setup.distance is not None:
        with Link(machine, setup.distance, seed) as link:
            round_trip, loss = setup.distance.round_trip / 1000, setup.distance.loss / 100
            yield Access(link.enter, (SERVER, PORT), round_trip, loss, link.stalls, link.packets)
    else:
        yield Access(machine.enter_network, ("127.0.0.1", PORT))
