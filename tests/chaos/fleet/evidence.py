"""What is known about a run of a fleet. All times are seconds of CLOCK_MONOTONIC."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from tests.chaos.evidence import Closed, Operation, Request

_PASSED = re.compile(
    r" (?:app|http)/(\S+) \S+ (-?\d+) \d+ \S+ \S+ (\S{4}) [\d/]+/(\+?\d+) [\d/]+ \"(?:GET|POST) /c/([\w-]+)"
)


@dataclass(frozen=True)
class Passed:
    """What HAProxy's log says of a request."""

    server: str
    status: int  #: -1: there was no response
    state: str  #: how its session ended: "8.5. Session state at disconnection" in HAProxy's manual
    retries: str  #: with a plus, if it was sent to another server in the end


def read_log(text: str) -> dict[str, Passed]:
    """Return what HAProxy has logged of each request, by its name."""
    return {
        name: Passed(server, int(status), state, retries)
        for server, status, state, retries, name in _PASSED.findall(text)
    }


@dataclass(frozen=True)
class Deed:
    """A fault that was made, until all that it does is undone."""

    what: str
    machine: str  #: empty: of HAProxy or the controller
    began: float
    ended: float
    detail: str = ""

    def __str__(self) -> str:
        return f"{self.what} {self.machine} {self.detail}: {self.began:.3f} to {self.ended:.3f}"


@dataclass(frozen=True)
class FleetOperation(Operation):
    """What an administrator did to the fleet."""

    bad: str = ""  #: the release, if it is bad
    responds: bool = False  #: the bad release boots, and responds with errors
    canary: bool = False
    first: str = ""  #: the machine that is switched first
    running: tuple[tuple[str, str], ...] = ()  #: what each machine ran afterwards


@dataclass(frozen=True)
class Look:
    """What HAProxy knew about a server at a time."""

    at: float
    server: str
    status: str
    weight: int


@dataclass
class FleetEvidence:
    """All that is known about a run."""

    requests: list[Request] = field(default_factory=list)
    closed: list[Closed] = field(default_factory=list)
    executed: list[tuple[str, str]] = field(default_factory=list)  #: name of a request, and machine
    passed: dict[str, Passed] = field(default_factory=dict)
    deeds: list[Deed] = field(default_factory=list)
    operations: list[FleetOperation] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)  #: only the changes
    late: list[tuple[float, float]] = field(default_factory=list)  #: when the clients' loop was late, and by how much
    leftovers: list[str] = field(default_factory=list)  #: what is wrong after the repair
    logs: dict[str, str] = field(default_factory=dict)

    def lateness(self, began: float, ended: float) -> float:
        """Return for how many seconds of this time the clients got no CPU."""
        return sum(by for at, by in self.late if began <= at <= ended + by)

    def is_post(self, request: Request) -> bool:
        return request.kind == "upload"
