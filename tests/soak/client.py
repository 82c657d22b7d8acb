"""The client: one process that sends requests at a fixed rate, and accounts for each: ``python -m tests.soak.client``.

Standard input has the name of the phase that begins, a line each; the last line is ``stop``. Standard output gets an
account for every ten seconds and at each change, as JSON. A request is never retried.

The rate does not depend on the server: a request that finds all connections busy waits here, and its response time
counts from the moment at which it was due (this avoids what is called coordinated omission).
"""

from __future__ import annotations

import gc
import json
import os
import select
import signal
import socket
import time
from collections import Counter, deque
from contextlib import suppress
from dataclasses import dataclass, field

import click

from tests.soak.latency import LONGEST, Latency
from tests.soak.response import REQUEST, parse

STOP = "stop"
INTERVAL = 10.0  #: seconds of an account
_LOOK = 1.0  #: seconds between two looks for overdue responses
_PAUSE = 0.001  #: seconds after a failure to send: without a server there is no busy loop
_STDIN = 0


@dataclass(eq=False)
class Slot:
    """A place for a connection, used for one request at a time."""

    sock: socket.socket | None = None
    due: float = 0.0  #: when the request in flight was due; 0.0: there is none
    sent: float = 0.0  #: when it was sent
    received: bytes = b""


@dataclass
class Tally:
    """What happened in an interval."""

    sent: int = 0
    skipped: int = 0  #: requests that were due and not sent, as the server is slower than the rate
    answered: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    closed: int = 0  #: connections that the server closed, or said that it would
    opened: int = 0
    late: float = 0.0  #: most seconds that this process itself was late
    latency: Latency = field(default_factory=Latency)
    processes: set[bytes] = field(default_factory=set)  #: that responded


class Client:
    """Connections to one server, and the requests on them."""

    def __init__(self, address: tuple[str, int], connections: int, rate: float, *, keep_alive: bool) -> None:
        """`rate` is in requests per second; 0: each connection sends the next one when it has its response."""
        self._address = address
        self._step = 1 / rate if rate else 0.0
        self._keep_alive = keep_alive
        self._slots = [Slot() for _ in range(connections)]
        self._idle = deque(self._slots)
        self._by_fd: dict[int, Slot] = {}
        self._epoll = select.epoll()
        self._epoll.register(_STDIN, select.EPOLLIN)
        self._waiting: deque[float] = deque()  #: when the requests were due that no connection was free for
        self._commands = b""
        self._phase = ""
        self._is_stopping = False
        self._tally = Tally()

    def run(self) -> None:
        """Send requests until told to stop, and until each has ended."""
        self._began = now = time.monotonic()
        self._due, look = now, now + _LOOK
        while True:
            self._send_due(now)
            if self._is_stopping and not self._waiting and len(self._idle) == len(self._slots):
                break
            self._wait(min(look, self._began + INTERVAL))
            now = time.monotonic()
            if now >= look:
                self._expire(now)
                look = now + _LOOK
            if now >= self._began + INTERVAL:
                self._report()
        self._report(is_last=True)

    def _wait(self, until: float) -> None:
        """Handle what has happened; wait for that until the next request is due."""
        if self._step and not self._is_stopping:
            until = min(until, self._due)
        # Not epoll_wait(2): its timeout is in whole milliseconds.
        select.select([self._epoll], [], [], max(until - time.monotonic(), 0.0))
        for fd, _ in self._epoll.poll(0):
            if fd == _STDIN:
                self._command()
            else:
                self._receive(self._by_fd[fd])

    def _command(self) -> None:
        data = os.read(_STDIN, 4096)
        *lines, self._commands = (self._commands + (data or b"stop\n")).split(b"\n")
        for line in lines:
            if line.decode() == STOP:
                self._is_stopping = True
                self._epoll.unregister(_STDIN)
                return
            if self._phase:
                self._report()
            self._phase, self._began = line.decode(), time.monotonic()

    def _send_due(self, now: float) -> None:
        idle, waiting = self._idle, self._waiting
        if not self._is_stopping:
            if not self._step:
                waiting.extend([now] * len(idle))
            elif self._due <= now:
                self._tally.late = max(self._tally.late, now - self._due)
                self._add_due(now)
        for _ in range(min(len(idle), len(waiting))):  # a failed one is idle again
            self._send(idle.popleft(), waiting.popleft())

    def _add_due(self, now: float) -> None:
        room = LONGEST / self._step - len(self._waiting)
        while self._due <= now:
            if room > 0:
                self._waiting.append(self._due)
            else:
                self._tally.skipped += 1
            room -= 1
            self._due += self._step

    def _send(self, slot: Slot, due: float) -> None:
        slot.due, slot.sent = due, time.monotonic()
        self._tally.sent += 1
        try:
            if slot.sock is None:
                self._connect(slot)
            assert slot.sock is not None
            if slot.sock.send(REQUEST) != len(REQUEST):
                self._fail(slot, "the request did not fit the socket's buffer")
        except OSError as error:
            self._tally.closed += slot.sock is not None
            self._fail(slot, f"sending: {error}")
            time.sleep(_PAUSE)

    def _connect(self, slot: Slot) -> None:
        """Open a connection; on this machine that takes no time while the listener exists."""
        sock = socket.create_connection(self._address, timeout=LONGEST)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        slot.sock = sock
        self._by_fd[sock.fileno()] = slot
        self._epoll.register(sock, select.EPOLLIN)
        self._tally.opened += 1

    def _receive(self, slot: Slot) -> None:
        assert slot.sock is not None
        try:
            data = slot.sock.recv(65536)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(slot, f"receiving: {error}")
            return
        if not data or not slot.due:
            self._end(slot, "closed without a complete response" if not data else "data without a request")
            return
        slot.received += data
        response = parse(slot.received)
        if response is not None:
            self._finish(slot, response.failure, response.process, closes=response.closes)

    def _finish(self, slot: Slot, failure: str, process: bytes, *, closes: bool) -> None:
        """Count a complete response."""
        if closes and self._keep_alive:
            self._tally.closed += 1
        if failure:
            self._fail(slot, failure)
            return
        tally = self._tally
        tally.answered += 1
        tally.processes.add(process)
        tally.latency.record(time.monotonic() - slot.due)
        if closes or not self._keep_alive:
            self._close(slot)
        self._free(slot)

    def _end(self, slot: Slot, reason: str) -> None:
        """Count a connection that the server has ended, and its request, if there is one."""
        self._tally.closed += 1
        if slot.due or reason.startswith("data"):
            self._fail(slot, reason)
        else:
            self._close(slot)

    def _fail(self, slot: Slot, reason: str) -> None:
        self._tally.failed[reason] += 1
        self._close(slot)
        if slot.due:
            self._free(slot)

    def _free(self, slot: Slot) -> None:
        slot.due, slot.received = 0.0, b""
        self._idle.append(slot)

    def _close(self, slot: Slot) -> None:
        if slot.sock is not None:
            self._epoll.unregister(slot.sock)
            del self._by_fd[slot.sock.fileno()]
            slot.sock.close()
            slot.sock = None

    def _expire(self, now: float) -> None:
        for slot in self._slots:
            if slot.due and now > slot.sent + LONGEST:
                self._fail(slot, f"no response within {LONGEST:.0f} s")

    def _report(self, *, is_last: bool = False) -> None:
        """Print the account of the interval, and begin the next one."""
        now, tally = time.monotonic(), self._tally
        account = {
            "phase": self._phase,
            "seconds": round(now - self._began, 3),
            "sent": tally.sent,
            "skipped": tally.skipped,
            "answered": tally.answered,
            "failed": tally.failed,
            "closed": tally.closed,
            "opened": tally.opened,
            "in_flight": len(self._slots) - len(self._idle),
            "waiting": len(self._waiting),
            "late": round(tally.late, 6),
            "processes": len(tally.processes),
            "histogram": tally.latency.encode(),
            "is_last": is_last,
        }
        print(json.dumps(account), flush=True)
        self._began, self._tally = now, Tally()


@click.command()
@click.argument("host")
@click.argument("port", type=int)
@click.option("--connections", type=int, required=True)
@click.option("--rate", type=float, required=True, help="Requests per second; 0: as many as the server takes.")
@click.option("--keep-alive/--no-keep-alive", default=True)
def main(host: str, port: int, connections: int, rate: float, keep_alive: bool) -> None:
    """Send requests until standard input says stop."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started this one
    # The service must not make it late: elsewhere clients have CPUs of their own.
    with suppress(PermissionError):  # script/soak has root; the tests of this module need none
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
    gc.disable()  # a collection would make requests late; there are no cycles
    Client((host, port), connections, rate, keep_alive=keep_alive).run()


if __name__ == "__main__":
    main()
