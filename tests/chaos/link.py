"""A slow and lossy link: two TUN devices, and a thread that forwards their packets late, and drops some.

Kernels without netem have no other way. One device is in the machine's network, the other one in a network that the
thread has made; the kernel removes both when the thread ends.
"""

from __future__ import annotations

import fcntl
import heapq
import itertools
import os
import random
import select
import struct
import subprocess
import threading
import time
from types import TracebackType

from tests.chaos.evidence import Packet, Segment, Stall
from tests.chaos.schedule import Distance
from tests.support.machine import Machine, enter_network, leave_network

SERVER, CLIENT = "192.0.2.1", "192.0.2.2"
#: From linux/if_tun.h: make a device of IP packets without a header of its own.
_TUNSETIFF, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x1, 0x1000
_PACKET = 65536
_TCP = 6
_FIN, _SYN, _RST = 0x01, 0x02, 0x04


def parse(packet: bytes, *, to_server: bool) -> Segment | None:
    """Return what a packet is; None if it is not TCP over IPv4."""
    if packet[0] >> 4 != 4 or packet[9] != _TCP:
        return None
    header = 4 * (packet[0] & 0xF)
    (length,) = struct.unpack_from("!H", packet, 2)
    source, target = struct.unpack_from("!HH", packet, header)
    offset, flags = packet[header + 12] >> 4, packet[header + 13]
    has_content = length - header - 4 * offset > 0
    return Segment(source if to_server else target, to_server, has_content or bool(flags & (_FIN | _SYN | _RST)))


class Losses:
    """The packets that were dropped, and until when their connections waited for it."""

    def __init__(self) -> None:
        self.packets: list[Packet] = []  #: all of them: what a wait was for is found nowhere else
        self.stalls: list[Stall] = []
        self._waiting: list[tuple[Segment, float]] = []

    def drop(self, segment: Segment, now: float) -> None:
        self.packets.append(Packet(now, segment, is_lost=True))
        self._waiting.append((segment, now))

    def forward(self, segment: Segment, now: float) -> None:
        """Note that a packet passes: what was lost before it has been sent again."""
        self.packets.append(Packet(now, segment, is_lost=False))
        for lost, began in [each for each in self._waiting if _replaces(segment, each[0])]:
            self._waiting.remove((lost, began))
            self.stalls.append(Stall(segment.port, began, now))

    def end(self, now: float) -> None:
        """Note that nothing more passes."""
        self.stalls += [Stall(lost.port, began, now) for lost, began in self._waiting]
        self._waiting.clear()


def _replaces(segment: Segment, lost: Segment) -> bool:
    """Return whether a packet shows that a lost one of its connection does not delay it any more. Nothing is sent in
    the place of an acknowledgment: its receiver sends again, or goes on."""
    same_way = segment.needs_acknowledgment and segment.to_server == lost.to_server
    return segment.port == lost.port and (same_way or not lost.needs_acknowledgment)


class Link:
    """The link, for the length of a ``with`` block."""

    def __init__(self, machine: Machine, distance: Distance, seed: int) -> None:
        self._machine = machine
        self._delay, self._loss = distance.round_trip / 2000, distance.loss / 100
        self._choose = random.Random(seed)  # noqa: S311 (it must be repeatable)
        self._losses = Losses()
        self.packets, self.stalls = self._losses.packets, self._losses.stalls
        self._is_up, self._ending = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._late: list[tuple[float, int, int, bytes]] = []  # when it is due, its number, where to, packet
        self._numbers = itertools.count()
        self._thread = threading.Thread(target=self._main, name="link")

    def __enter__(self) -> Link:
        self._thread.start()
        self._is_up.wait()
        if self._error is not None:
            raise self._error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ending.set()
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    def enter(self) -> None:
        """Let the calling thread make its sockets at the clients' end from now on."""
        assert self._thread.native_id is not None
        enter_network(self._thread.native_id)

    def _main(self) -> None:
        devices: list[int] = []
        try:
            self._machine.enter_network()
            devices.append(_make_device("far", SERVER))
            leave_network()
            devices.append(_make_device("near", CLIENT))
            self._is_up.set()
            self._forward(server=devices[0], client=devices[1])
        except BaseException as error:  # noqa: BLE001 (raised again in the other thread)
            self._error = error
        finally:
            for device in devices:
                os.close(device)
            self._is_up.set()

    def _forward(self, server: int, client: int) -> None:
        poll = select.poll()
        for device in (server, client):
            poll.register(device, select.POLLIN)
        while not self._ending.is_set():
            wait = max(0.0, self._late[0][0] - time.monotonic()) if self._late else 0.1
            for device, _ in poll.poll(1000 * wait):
                self._take(device, client if device == server else server, to_server=device == client)
            while self._late and self._late[0][0] <= time.monotonic():
                _, _, target, packet = heapq.heappop(self._late)
                os.write(target, packet)
        self._losses.end(time.monotonic())

    def _take(self, source: int, target: int, *, to_server: bool) -> None:
        """Read all packets of a device: drop some, and let the others wait."""
        while True:
            try:
                packet = os.read(source, _PACKET)
            except BlockingIOError:
                return
            segment = parse(packet, to_server=to_server)
            now = time.monotonic()
            if segment is not None and self._choose.random() < self._loss:
                self._losses.drop(segment, now)
                continue
            if segment is not None:
                self._losses.forward(segment, now)
            heapq.heappush(self._late, (now + self._delay, next(self._numbers), target, packet))


def _make_device(name: str, address: str) -> int:
    """Make a TUN device in the network of the calling thread."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    for command in (("address", "add", f"{address}/30", "dev", name), ("link", "set", name, "up")):
        subprocess.run(["ip", *command], check=True)
    return device
