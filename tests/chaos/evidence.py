"""What is known about a run: the clients' ledger, the application's log, and what was done to the service.

All times are seconds of CLOCK_MONOTONIC, which is the same in the machine and outside.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


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
    port: int  #: the client's, which tells connections apart; 0 if there is none
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
    windows: list[Window] = field(default_factory=list)
    operations: list[Operation] = field(default_factory=list)
    faults: list[tuple[str, float, float]] = field(default_factory=list)  #: other ones: name, begin, end
    late: list[tuple[float, float]] = field(default_factory=list)  #: when the clients' loop was late, and by how much
    starved: list[tuple[float, float]] = field(default_factory=list)  #: the same of all processes of the machine
    leftovers: list[str] = field(default_factory=list)  #: what is wrong with the service afterwards
    serial: bool = False  #: a worker serves one request at a time: clients wait for each other
    journal: str = ""

    def lateness(self, began: float, ended: float) -> float:
        """Return for how many seconds of this time the clients, or all processes of the machine, got no CPU."""
        return sum(by for at, by in self.late + self.starved if began <= at <= ended + by)
