"""What is known about a run: the clients' ledger, the application's log, and what was done to the service.

All times are seconds of CLOCK_MONOTONIC, which is the same in the machine and outside.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property

#: From the moment at which a packet is sent again until the client has it, on the slowest link. Seconds.
LATE = 0.5
#: A line of the journal about an error in a worker, or its death.
_ERROR = re.compile(
    r"^\[ *(\d+\.\d+)\] \S+ gunicorn\[(?:(\d+)\]: (?:Error handling|Unexpected error|Exception|Traceback)"
    r"|\d+\]: Worker \(pid:(\d+)\) was sent SIG)",
    re.MULTILINE,
)


class Outcome(Enum):
    OK = "ok"
    REFUSED = "refused"  #: no connection
    RESET = "reset"
    EOF = "eof"  #: the connection ended before a byte of the response
    CUT = "cut"  #: it ended within the response
    STATUS = "status"  #: not 200
    WRONG = "wrong"  #: not the content of this request's response
    TIMEOUT = "timeout"


@dataclass(frozen=True)
class Request:
    """A request, and what became of it."""

    name: str
    kind: str
    port: int  #: the client's, which tells connections apart; of a Unix socket its inode; 0 if there is none
    opened: float  #: when its client began to open its connection
    reused: bool  #: its connection has had a request before
    began: float
    ended: float
    own: float  #: seconds that it takes without any wait
    outcome: Outcome
    received: int = 0  #: bytes of the response
    pid: int = 0  #: of the worker, as the response says
    release: str = ""
    detail: str = ""

    def __str__(self) -> str:
        new = "reused" if self.reused else "new"
        worker = f" by {self.pid}, release {self.release}" if self.pid else ""
        took = f"{self.began:.3f} to {self.ended:.3f} ({self.ended - self.began:.3f} s, own {self.own:g} s)"
        connection = f"{self.name}, {new} connection {self.port} of {self.opened:.3f}"
        return f"{connection}, {took}: {self.outcome.value}{worker} {self.detail}".rstrip()


@dataclass(frozen=True)
class Closed:
    """An idle connection that the server has closed without having announced it."""

    kind: str
    port: int
    opened: float
    at: float


@dataclass(frozen=True)
class Halt:
    """A process that was stopped, and killed or continued afterwards."""

    pid: int
    role: str
    step: str  #: at which it was stopped; empty: at a random time
    killed: bool
    began: float
    ended: float
    ports: frozenset[int]  #: clients of the connections that it held
    #: Clients of connections in the mailbox, if the process had accepted a message of it.
    mail: frozenset[int] = frozenset()

    def __str__(self) -> str:
        what = "killed" if self.killed else "frozen"
        where = f" at {self.step}" if self.step else ""
        ports = len(self.ports)
        return f"{self.role} {self.pid} {what}{where}, {self.began:.3f} to {self.ended:.3f}, with {ports} connections"


@dataclass(frozen=True)
class Shortage:
    """A process that got no more memory for some time."""

    pid: int
    role: str
    began: float
    ended: float
    ports: frozenset[int]  #: clients of the connections that it held at some moment of that time

    def __str__(self) -> str:
        return f"{self.role} {self.pid} without memory, {self.began:.3f} to {self.ended:.3f}"


@dataclass(frozen=True)
class Stall:
    """A connection for which a lossy link has dropped a packet, until its sender has sent again."""

    port: int
    began: float
    ended: float


@dataclass(frozen=True)
class Segment:
    """What a lossy link knows of a packet."""

    port: int  #: the client's
    to_server: bool
    needs_acknowledgment: bool  #: its sender sends it again, if it is lost


@dataclass(frozen=True)
class Packet:
    """A packet that has come to a lossy link."""

    at: float
    segment: Segment
    is_lost: bool


class Cause(Enum):
    """Why clients may notice something for some time; docs/restarts.md and docs/workers.md name each."""

    MASTER_KILLED = "master killed"
    LAST_WORKER_KILLED = "last worker killed"
    NOT_ACTIVE = "service not yet active after a kill"  #: clients notice nothing, but commands may fail
    STOP = "stop"
    PORT_CLOSED = "port closed"
    DRAIN = "restart without a relay"
    DESCRIPTORS = "descriptors used up"
    CPU = "CPU used up"
    HOSTILE = "hostile clients"  #: of workers that serve one request at a time


@dataclass(frozen=True)
class Window:
    """A time in which clients may notice something."""

    cause: Cause
    began: float
    ended: float

    def overlaps(self, began: float, ended: float, slack: float = 0.0) -> bool:
        return began <= self.ended + slack and ended >= self.began


class Expected(Enum):
    SUCCESS = "success"
    FAILURE = "failure"
    ANY = "any"


@dataclass(frozen=True)
class Operation:
    """A command of the administrator."""

    command: str
    began: float
    ended: float
    status: int
    expected: Expected
    release: str = ""  #: serves when the command has returned, if it succeeds
    output: str = ""

    def __str__(self) -> str:
        return f"{self.command}: {self.began:.3f} to {self.ended:.3f}, exit status {self.status} {self.output}".rstrip()


@dataclass
class Evidence:
    """All that is known about a run."""

    requests: list[Request] = field(default_factory=list)
    closed: list[Closed] = field(default_factory=list)
    executed: list[tuple[str, int]] = field(default_factory=list)  #: name of a request, and PID
    halts: list[Halt] = field(default_factory=list)
    shortages: list[Shortage] = field(default_factory=list)
    windows: list[Window] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    faults: list[tuple[str, float, float]] = field(default_factory=list)  #: other ones: name, begin, end
    late: list[tuple[float, float]] = field(default_factory=list)  #: when the clients' loop was late, and by how much
    starved: list[tuple[float, float]] = field(default_factory=list)  #: the same of all processes of the machine
    stalls: list[Stall] = field(default_factory=list)
    packets: Sequence[Packet] = ()
    leftovers: list[str] = field(default_factory=list)  #: what is wrong with the service afterwards
    serial: bool = False  #: a worker serves one request at a time: clients wait for each other
    journal: str = ""

    @cached_property
    def errors(self) -> list[tuple[float, int]]:
        """When workers have logged errors, or have died (CLOCK_MONOTONIC, seconds), with their pids."""
        return [(float(found[1]), int(found[2] or found[3])) for found in _ERROR.finditer(self.journal)]

    def had(self, shortage: Shortage, port: int, began: float, ended: float) -> bool:
        """Return whether a process without memory had the connection of a client in this time. Between two looks at it,
        it may have taken it over, and failed."""
        failed = any(pid == shortage.pid and began <= at <= ended for at, pid in self.errors)
        in_time = began <= shortage.ended and ended >= shortage.began
        return in_time and (port in shortage.ports or failed)

    def lateness(self, began: float, ended: float, port: int = 0) -> float:
        """Return for how many seconds of this time the clients, or all processes of the machine, got no CPU, or a
        connection waited for a sender that had to send again."""
        starved = sum(by for at, by in self.late + self.starved if began <= at <= ended + by)
        return starved + self._stalled(began, ended, port)

    def silence(self, request: Request) -> float:
        """Return for how long, at most, nothing passed a lossy link that a receiver waits for; infinity without one."""
        if not self.packets:
            return math.inf
        passed = (
            packet.at
            for packet in self.packets
            if packet.segment.port == request.port and packet.segment.needs_acknowledgment and not packet.is_lost
        )
        times = [request.began, *(at for at in passed if request.began < at < request.ended), request.ended]
        return max(
            later - earlier - self.lateness(earlier, later, request.port)
            for earlier, later in itertools.pairwise(times)
        )

    def sent_at(self, port: int, at: float) -> float:
        """Return when, at the earliest, a packet was sent first that the client of a connection got at this time."""
        stalls = [each.began for each in self.stalls if each.port == port and each.began <= at <= each.ended + LATE]
        return min([at, *stalls])

    def waits_for_request(self, request: Request) -> bool:
        """Return whether a lossy link has delayed the first packet of a new connection so much that the server may have
        taken it for idle."""
        return not request.reused and self._stalled(request.began, request.ended, request.port) > LATE

    def lost_reset(self, request: Request) -> bool:
        """Return whether its client has noticed nothing, as the link has dropped a packet of its connection that was
        never sent again: a reset."""
        return request.outcome is Outcome.TIMEOUT and any(
            each.port == request.port and request.began <= each.began <= request.ended <= each.ended
            for each in self.stalls
        )

    def _stalled(self, began: float, ended: float, port: int) -> float:
        """Return the length of the union of a connection's stalls, within this time."""
        total, until = 0.0, began
        for stall in sorted((each for each in self.stalls if each.port == port), key=lambda each: each.began):
            first, last = max(stall.began, until), min(stall.ended, ended)
            if last > first:
                total, until = total + last - first, last
        return total
